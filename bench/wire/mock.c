/* An engine that costs next to nothing: `mock PORT CHUNKS GAP_MS`.
 *
 * Answers each POST at once with a small JSON answer, or, where its body asks for a stream, with
 * CHUNKS events, one every GAP_MS, then the usage and [DONE]. HTTP/1.1 with Content-Length only.
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

#define CONNECTIONS 4096
#define BUFFER (1 << 20)

struct conn {
    char *in;
    size_t have;
    int left;     /* events still to be sent; 0: none under way */
    double next;  /* when */
};

static struct conn conns[CONNECTIONS];
static int chunks;
static double gap;

static const char JSON[] =
    "{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"mock\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The open yard where "
    "the village holds its events, and what lets an event happen is the stage and the staff.\"},"
    "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":900,\"completion_tokens\":20,"
    "\"total_tokens\":920}}";
static const char EVENT[] =
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\","
    "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"},\"finish_reason\":null}]}\n\n";
static const char LAST[] =
    "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"mock\","
    "\"choices\":[],\"usage\":{\"prompt_tokens\":900,\"completion_tokens\":64,\"total_tokens\":964}}\n\n"
    "data: [DONE]\n\n";
static const char HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void say(int fd, const char *data, size_t size) {
    while (size) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) return;
        data += n;
        size -= (size_t)n;
    }
}

static void say_chunk(int fd, const char *data, size_t size, int last) {
    char out[2048];
    int n = snprintf(out, sizeof out, "%zx\r\n", size);
    memcpy(out + n, data, size);
    n += (int)size;
    n += snprintf(out + n, sizeof out - (size_t)n, last ? "\r\n0\r\n\r\n" : "\r\n");
    say(fd, out, (size_t)n);
}

static void answer(int fd, const char *body, size_t size) {
    static char whole[2048];
    static int length;
    if (memmem(body, size, "\"stream\":true", 13)) {
        say(fd, HEAD, sizeof HEAD - 1);
        conns[fd].left = chunks;
        conns[fd].next = now() + gap;
        return;
    }
    if (!length)
        length = snprintf(whole, sizeof whole,
                          "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                          "Content-Length: %zu\r\n\r\n%s", sizeof JSON - 1, JSON);
    say(fd, whole, (size_t)length);
}

static void serve(int fd) {
    struct conn *c = &conns[fd];
    for (;;) {
        char *end = memmem(c->in, c->have, "\r\n\r\n", 4);
        if (!end) return;
        size_t head = (size_t)(end - c->in) + 4, body = 0;
        for (char *at = c->in; at < end; at++)
            if (!strncasecmp(at, "\r\ncontent-length:", 17)) body = strtoul(at + 17, NULL, 10);
        if (c->have < head + body) return;
        answer(fd, c->in + head, body);
        c->have -= head + body;
        memmove(c->in, c->in + head + body, c->have);
    }
}

static void tick(void) {
    double at = now();
    for (int fd = 0; fd < CONNECTIONS; fd++) {
        struct conn *c = &conns[fd];
        while (c->left && at >= c->next) {
            say_chunk(fd, EVENT, sizeof EVENT - 1, 0);
            c->next += gap;
            if (!--c->left) say_chunk(fd, LAST, sizeof LAST - 1, 1);
        }
    }
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    chunks = atoi(argv[2]);
    gap = atof(argv[3]) / 1000;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), poll = epoll_create1(0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) return 1;
    socklen_t size = sizeof at;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    double last = now();
    for (;;) {
        int n = epoll_wait(poll, events, 256, 1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int made = accept(listener, NULL, NULL);
                if (made < 0) continue;
                if (made >= CONNECTIONS) { close(made); continue; }
                fcntl(made, F_SETFL, O_NONBLOCK);
                setsockopt(made, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                if (!conns[made].in) conns[made].in = malloc(BUFFER);
                conns[made].have = 0;
                conns[made].left = 0;
                event.data.fd = made;
                epoll_ctl(poll, EPOLL_CTL_ADD, made, &event);
                continue;
            }
            struct conn *c = &conns[fd];
            ssize_t got = recv(fd, c->in + c->have, BUFFER - c->have, 0);
            if (got <= 0) {
                if (got < 0 && errno == EAGAIN) continue;
                c->left = 0;
                close(fd);
                continue;
            }
            c->have += (size_t)got;
            serve(fd);
        }
        if (now() - last >= 0.0005) {
            tick();
            last = now();
        }
    }
}
