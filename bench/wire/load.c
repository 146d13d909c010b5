/* A load that costs next to nothing: `load PORT CONNECTIONS SECONDS COUNT FILE`.
 *
 * Sends the bytes of FILE on so many connections, each again as soon as its answer is whole, until
 * the time is over or COUNT are answered (0: any). Eight `@` in FILE are the number of the request,
 * so that no two are alike; where FILE says `Connection: close`, each has a connection of its own.
 * Answers have a Content-Length or end with the last chunk. Writes one line of JSON: what was
 * answered, and milliseconds from request to first event (or answer) and to the end. Compiled with
 * -DTLS it speaks TLS, trusts anybody, and begins each connection with a whole handshake.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef TLS
#include <openssl/ssl.h>
#endif

#define BUFFER (1 << 18)
#define SAMPLES 4000000

struct conn {
    int fd, started;
    char *in;
    size_t have, left; /* left: bytes of a body with a length */
    int chunked, headed;
    char tail[8];
    double asked, first;
#ifdef TLS
    SSL *ssl;
#endif
};

static char *request, *number;
static size_t request_size;
static int fresh; /* each request on a connection of its own */
static unsigned asked; /* counts up from the microsecond of the start: no two runs say the same */
static long done, errors, events, samples;
static float *firsts, *wholes;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Connect; 0: it is done. */
static int dial(struct conn *c, int port) {
    int one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (struct sockaddr *)&at, sizeof at)) return -1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef TLS
    static SSL_CTX *context;
    if (!context) context = SSL_CTX_new(TLS_client_method());
    if (c->ssl) SSL_free(c->ssl);
    c->ssl = SSL_new(context);
    SSL_set_fd(c->ssl, c->fd);
    if (SSL_connect(c->ssl) != 1) return -1;
#endif
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    return 0;
}

/* Send or receive some: a number of bytes, 0: hung up, -1: nothing now. */
static ssize_t give(struct conn *c, const char *data, size_t size) {
#ifdef TLS
    int n = SSL_write(c->ssl, data, (int)size), why = n > 0 ? 0 : SSL_get_error(c->ssl, n);
    return n > 0 ? n : why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? -1 : 0;
#else
    ssize_t n = send(c->fd, data, size, MSG_NOSIGNAL);
    return n >= 0 ? n : errno == EAGAIN ? -1 : 0;
#endif
}

static ssize_t get(struct conn *c, char *data, size_t size) {
#ifdef TLS
    int n = SSL_read(c->ssl, data, (int)size), why = n > 0 ? 0 : SSL_get_error(c->ssl, n);
    return n > 0 ? n : why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE ? -1 : 0;
#else
    ssize_t n = recv(c->fd, data, size, 0);
    return n >= 0 ? n : errno == EAGAIN ? -1 : 0;
#endif
}

static void ask(struct conn *c) {
    size_t sent = 0;
    c->have = c->left = 0;
    c->headed = c->chunked = 0;
    c->first = 0;
    memset(c->tail, 0, sizeof c->tail);
    if (number) {
        char digits[9];
        snprintf(digits, sizeof digits, "%08x", asked++);
        memcpy(number, digits, 8);
    }
    c->asked = now();
    while (sent < request_size) {
        ssize_t n = give(c, request + sent, request_size - sent);
        if (n < 0) continue;
        if (n == 0) return;
        sent += (size_t)n;
    }
}

static int again(struct conn *c, int port, int poll) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    close(c->fd);
    if (dial(c, port)) return -1;
    epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event);
    return 0;
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
    number = memmem(request, request_size, "@@@@@@@@", 8);
    fresh = memmem(request, request_size, "\r\nConnection: close\r\n", 21) != NULL;
    asked = (unsigned)(uint64_t)(began * 1e6);
    signal(SIGPIPE, SIG_IGN);
    firsts = malloc(sizeof(float) * SAMPLES);
    wholes = malloc(sizeof(float) * SAMPLES);
    struct conn *conns = calloc((size_t)many, sizeof *conns);
    struct epoll_event event = {.events = EPOLLIN}, ready[256];
    for (int i = 0; i < many; i++) {
        conns[i].in = malloc(BUFFER);
        if (dial(&conns[i], port)) return 1;
        event.data.ptr = &conns[i];
        epoll_ctl(poll, EPOLL_CTL_ADD, conns[i].fd, &event);
        ask(&conns[i]);
    }
    static char data[BUFFER];
    while (now() < end && (!most || done < most) && errors < 1000) {
        int n = epoll_wait(poll, ready, 256, 100);
        for (int i = 0; i < n; i++) {
            struct conn *c = ready[i].data.ptr;
            ssize_t got = get(c, data, sizeof data);
            if (got < 0) continue;
            int state = got > 0 ? take(c, data, (size_t)got) : -1;
            if (state < 0) {
                errors++;
                if (again(c, port, poll)) return 1;
                ask(c);
            } else if (state > 0) {
                double at = now();
                if (samples < SAMPLES) {
                    firsts[samples] = (float)((c->first - c->asked) * 1e3);
                    wholes[samples++] = (float)((at - c->asked) * 1e3);
                }
                done++;
                if (fresh && again(c, port, poll)) return 1;
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
