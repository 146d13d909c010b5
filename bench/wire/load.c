/* A load that costs next to nothing: `load PORT CONNECTIONS SECONDS COUNT FILE`.
 *
 * Sends the bytes of FILE on so many connections, each again as soon as its answer is whole, until
 * the time is over or COUNT are answered (0: any). Answers have a Content-Length or end with the
 * last chunk. Writes one line of JSON: what was answered, and milliseconds from request to first
 * event (or answer) and to the end.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 18)
#define SAMPLES 4000000

struct conn {
    int fd, started;
    char *in;
    size_t have, left; /* left: bytes of a body with a length */
    int chunked, headed;
    char tail[8];
    double asked, first;
};

static char *request;
static size_t request_size;
static long done, errors, events, samples;
static float *firsts, *wholes;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int dial(int port) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&at, sizeof at)) return -1;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    return fd;
}

static void ask(struct conn *c) {
    size_t sent = 0;
    c->have = c->left = 0;
    c->headed = c->chunked = 0;
    c->first = 0;
    memset(c->tail, 0, sizeof c->tail);
    c->asked = now();
    while (sent < request_size) {
        ssize_t n = send(c->fd, request + sent, request_size - sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) return;
        sent += (size_t)n;
    }
}

static void count(const char *data, size_t size) {
    const char *at = data, *end = data + size;
    while ((at = memmem(at, (size_t)(end - at), "data: {", 7))) events++, at += 7;
}

/* Take what came; 1: the answer is whole, -1: it is none. */
static int take(struct conn *c, const char *data, size_t size) {
    if (!c->headed) {
        if (c->have + size > BUFFER) return -1;
        memcpy(c->in + c->have, data, size);
        c->have += size;
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end) return 0;
        if (strncmp(c->in, "HTTP/1.1 200", 12)) {
            fprintf(stderr, "%.*s\n", (int)(c->have < 400 ? c->have : 400), c->in);
            return -1;
        }
        c->headed = 1;
        for (char *at = c->in; at < end; at++) {
            if (!strncasecmp(at, "\r\ncontent-length:", 17)) c->left = strtoul(at + 17, NULL, 10);
            if (!strncasecmp(at, "\r\ntransfer-encoding:", 20)) c->chunked = 1;
        }
        data = end + 4;
        size = (size_t)(c->in + c->have - data);
    }
    if (!size) return 0;
    if (c->first == 0) c->first = now();
    if (!c->chunked) {
        if (size > c->left) return -1;
        c->left -= size;
        return c->left == 0;
    }
    count(data, size);
    char last[16];
    size_t keep = size < 7 ? size : 7;
    memcpy(last, c->tail, 7);
    memmove(last, last + keep, 7 - keep);
    memcpy(last + 7 - keep, data + size - keep, keep);
    memcpy(c->tail, last, 7);
    return !memcmp(last, "\r\n0\r\n\r\n", 7);
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

static double at_share(float *of, double share) {
    return samples ? of[(long)((double)(samples - 1) * share)] : 0;
}

int main(int argc, char **argv) {
    if (argc != 6) return 2;
    int port = atoi(argv[1]), many = atoi(argv[2]), poll = epoll_create1(0);
    double end = now() + atof(argv[3]), began = now();
    long most = atol(argv[4]);
    FILE *file = fopen(argv[5], "rb");
    if (!file) return 1;
    request = malloc(1 << 22);
    request_size = fread(request, 1, 1 << 22, file);
    firsts = malloc(sizeof(float) * SAMPLES);
    wholes = malloc(sizeof(float) * SAMPLES);
    struct conn *conns = calloc((size_t)many, sizeof *conns);
    struct epoll_event event = {.events = EPOLLIN}, ready[256];
    for (int i = 0; i < many; i++) {
        conns[i].in = malloc(BUFFER);
        conns[i].fd = dial(port);
        if (conns[i].fd < 0) return 1;
        event.data.ptr = &conns[i];
        epoll_ctl(poll, EPOLL_CTL_ADD, conns[i].fd, &event);
        ask(&conns[i]);
    }
    static char data[BUFFER];
    while (now() < end && (!most || done < most) && errors < 1000) {
        int n = epoll_wait(poll, ready, 256, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            ssize_t got = recv(c->fd, data, sizeof data, 0);
            if (got < 0 && errno == EAGAIN) continue;
            int state = got > 0 ? take(c, data, (size_t)got) : -1;
            if (state < 0) {
                errors++;
                close(c->fd);
                if ((c->fd = dial(port)) < 0) return 1;
                event.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
                ask(c);
            } else if (state > 0) {
                double at = now();
                if (samples < SAMPLES) {
                    firsts[samples] = (float)((c->first - c->asked) * 1e3);
                    wholes[samples++] = (float)((at - c->asked) * 1e3);
                }
                done++;
                ask(c);
            }
        }
    }
    qsort(firsts, (size_t)samples, sizeof *firsts, by_size);
    qsort(wholes, (size_t)samples, sizeof *wholes, by_size);
    printf("{\"seconds\": %.3f, \"answers\": %ld, \"errors\": %ld, \"events\": %ld, "
           "\"first_p50_ms\": %.4f, \"first_p99_ms\": %.4f, \"p50_ms\": %.4f, \"p99_ms\": %.4f}\n",
           now() - began, done, errors, events, at_share(firsts, .5), at_share(firsts, .99),
           at_share(wholes, .5), at_share(wholes, .99));
    return 0;
}
