/* What the mock upstream and the load client share: the clock, sockets, HTTP/1.1 heads and body framing, event marks.
 *
 * Linux only (epoll). Every function is static: each tool is one translation unit.
 */
#ifndef QPROXY_BENCH_WIRE_H
#define QPROXY_BENCH_WIRE_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define HEAD_MAX 16384
#define READ_BYTES (256 * 1024)
#define NS_PER_S 1000000000ULL

/* Inside every event: ~SSSSSSSS@TTTTTTTTTTTTTTTT~ (sequence number from 0, CLOCK_MONOTONIC in microseconds). The
 * tilde stands nowhere else in the mock's answers, so that the mark is found whatever a proxy does to the JSON. */
#define MARK_SEQ_DIGITS 8
#define MARK_TIME_DIGITS 16
#define MARK_LEN (1 + MARK_SEQ_DIGITS + 1 + MARK_TIME_DIGITS + 1)
#define MARK_BLANK "~00000000@0000000000000000~"

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    exit(2);
}

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static inline void *grown(void *old, size_t bytes) {
    void *new = realloc(old, bytes);
    if (!new) die("out of memory");
    return new;
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline void raise_descriptor_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* One timer in the epoll set in place of epoll_wait's whole milliseconds. `at` 0 disarms. */
static inline void arm_timer(int timer_fd, uint64_t at) {
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(at / NS_PER_S), .tv_nsec = (long)(at % NS_PER_S)}};
    timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &spec, NULL);
}

static inline void drain_timer(int timer_fd) {
    uint64_t fired;
    if (read(timer_fd, &fired, sizeof fired) < 0 && errno != EAGAIN) die("timerfd: %s", strerror(errno));
}

/* ---- heads ---- */

/* The length of the head with its empty line, or 0 while it is not complete. `from` is where the last look ended. */
static inline size_t head_end(const char *bytes, size_t len, size_t from) {
    size_t start = from > 3 ? from - 3 : 0;
    const char *end = memmem(bytes + start, len - start, "\r\n\r\n", 4);
    return end ? (size_t)(end - bytes) + 4 : 0;
}

/* The value of a header in a head that ends with an empty line, with its length; NULL where there is none. */
static inline const char *header_value(const char *head, size_t len, const char *name, size_t *value_len) {
    size_t name_len = strlen(name);
    const char *line = memchr(head, '\n', len);
    while (line && ++line < head + len - 2) {
        const char *end = memchr(line, '\r', (size_t)(head + len - line));
        if (!end) return NULL;
        if ((size_t)(end - line) > name_len && line[name_len] == ':' && !strncasecmp(line, name, name_len)) {
            const char *value = line + name_len + 1;
            while (value < end && (*value == ' ' || *value == '\t')) value++;
            *value_len = (size_t)(end - value);
            return value;
        }
        line = memchr(line, '\n', (size_t)(head + len - line));
    }
    return NULL;
}

static inline bool header_is(const char *head, size_t len, const char *name, const char *wanted) {
    size_t value_len;
    const char *value = header_value(head, len, name, &value_len);
    return value && value_len == strlen(wanted) && !strncasecmp(value, wanted, value_len);
}

/* ---- bodies ---- */

enum body_state { BODY_DONE, BODY_LENGTH, BODY_UNTIL_CLOSE, BODY_SIZE, BODY_SIZE_END, BODY_CHUNK, BODY_CHUNK_END,
                  BODY_TRAILER, BODY_BROKEN };

struct body {
    enum body_state state;
    uint64_t left;       /* of the body or of the chunk */
    unsigned digits;     /* of the size line so far */
    unsigned line_bytes; /* of the trailer line so far */
};

/* Receives payload. May not touch the body it is called for. */
typedef void body_sink(void *owner, const char *bytes, size_t len);

static inline struct body body_from_head(const char *head, size_t len, bool until_close) {
    size_t value_len;
    const char *value;
    if (header_is(head, len, "transfer-encoding", "chunked")) return (struct body){.state = BODY_SIZE};
    if ((value = header_value(head, len, "content-length", &value_len))) {
        uint64_t length = strtoull(value, NULL, 10);
        return (struct body){.state = length ? BODY_LENGTH : BODY_DONE, .left = length};
    }
    return (struct body){.state = until_close ? BODY_UNTIL_CLOSE : BODY_DONE};
}

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* One byte of the framing between payloads. */
static inline void body_frame_byte(struct body *body, char c) {
    switch (body->state) {
    case BODY_SIZE:
        if (hex_digit(c) >= 0 && body->digits < 15) {
            body->left = body->left * 16 + (unsigned)hex_digit(c);
            body->digits++;
        } else {
            body->state = body->digits && (c == '\r' || c == ';' || c == ' ') ? BODY_SIZE_END : BODY_BROKEN;
        }
        return;
    case BODY_SIZE_END:
        if (c == '\n') body->state = body->left ? BODY_CHUNK : BODY_TRAILER;
        body->line_bytes = 0;
        return;
    case BODY_CHUNK_END:
        if (c == '\n') *body = (struct body){.state = BODY_SIZE};
        else if (c != '\r') body->state = BODY_BROKEN;
        return;
    case BODY_TRAILER:
        if (c == '\n' && body->line_bytes == 0) body->state = BODY_DONE;
        else if (c == '\n') body->line_bytes = 0;
        else if (c != '\r') body->line_bytes++;
        return;
    default:
        body->state = BODY_BROKEN;
    }
}

/* Feeds bytes to the body and payload to the sink; returns how many bytes belonged to the body. */
static inline size_t body_feed(struct body *body, const char *bytes, size_t len, body_sink *sink, void *owner) {
    size_t used = 0;
    while (used < len && body->state != BODY_DONE && body->state != BODY_BROKEN) {
        bool payload = body->state == BODY_LENGTH || body->state == BODY_CHUNK || body->state == BODY_UNTIL_CLOSE;
        if (!payload) {
            body_frame_byte(body, bytes[used++]);
            continue;
        }
        size_t part = len - used;
        if (body->state != BODY_UNTIL_CLOSE && part > body->left) part = (size_t)body->left;
        sink(owner, bytes + used, part);
        used += part;
        if (body->state == BODY_UNTIL_CLOSE) continue;
        body->left -= part;
        if (body->left == 0) body->state = body->state == BODY_LENGTH ? BODY_DONE : BODY_CHUNK_END;
    }
    return used;
}

#endif
