/* What the machine's sockets cost alone: `relay PORT ENGINE_PORT`.
 *
 * Passes all bytes on, both ways, and looks at none: one connection to the engine for each that
 * comes. No gateway that reads one request and asks one engine can cost less here.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS 4096
#define BUFFER (256 << 10)

static int other[CONNECTIONS];
static char buffer[BUFFER];
static int poll_fd;

static struct sockaddr_in near(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return at;
}

static void watch(int fd, int to) {
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    other[fd] = to;
    fcntl(fd, F_SETFL, O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void take(int listener, int engine_port) {
    struct sockaddr_in engine = near(engine_port);
    int client = accept(listener, NULL, NULL), up = socket(AF_INET, SOCK_STREAM, 0);
    int fits = client >= 0 && up >= 0 && client < CONNECTIONS && up < CONNECTIONS;
    if (fits && !connect(up, (struct sockaddr *)&engine, sizeof engine)) {
        watch(client, up);
        watch(up, client);
        return;
    }
    if (client >= 0) close(client);
    if (up >= 0) close(up);
}

static void part(int fd) {
    int to = other[fd];
    other[fd] = other[to] = 0;
    close(fd);
    close(to);
}

static void pass(int fd) {
    if (!other[fd]) return; /* parted from earlier in this turn */
    ssize_t got = recv(fd, buffer, BUFFER, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        part(fd);
        return;
    }
    for (ssize_t gone = 0; gone < got;) {
        ssize_t n = send(other[fd], buffer + gone, (size_t)(got - gone), MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) continue;
        if (n <= 0) {
            part(fd);
            return;
        }
        gone += n;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0), engine_port = atoi(argv[2]);
    struct sockaddr_in at = near(atoi(argv[1]));
    poll_fd = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) || listen(listener, 1024)) return 1;
    socklen_t size = sizeof at;
    getsockname(listener, (struct sockaddr *)&at, &size);
    printf("%d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener}, events[256];
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(poll_fd, events, 256, -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener) take(listener, engine_port);
            else pass(events[i].data.fd);
        }
    }
}
