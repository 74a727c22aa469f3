/* The mock model server's parts: `mock.c` connections, requests and plain answers, `mock_streams.c` streams. One
 * thread, one server, so one `mock` holds all of it. */
#ifndef QPROXY_BENCH_MOCK_H
#define QPROXY_BENCH_MOCK_H

#include "wire.h"

#define WINDOW_BYTES 4096
#define EVENT_BYTES 256 /* more than one takes */
#define BURST_MAX 32
#define OUT_MAX (EVENT_BYTES * (BURST_MAX + 3)) /* a burst, and an end behind it */

struct profile {
    unsigned chunks;
    unsigned pace;
    unsigned first_ms;
    unsigned burst;
};

struct conn {
    int fd;
    char head[HEAD_MAX];
    size_t head_len;
    bool in_body;
    struct body body;
    uint64_t body_bytes;
    char front[WINDOW_BYTES], tail[WINDOW_BYTES];
    size_t front_len, tail_len;
    /* what could not be written yet */
    char out[OUT_MAX];
    size_t out_len;
    /* the stream in progress */
    bool streaming;
    struct profile profile;
    unsigned seq;
    uint64_t next_ns;
    size_t heap_at;            /* 1-based; 0: not in the heap */
    struct conn *prev, *next;  /* in the ring of flat-out streams that can be written */
    bool ready;
};

struct mock {
    int epoll_fd, listen_fd, timer_fd;
    struct profile profile;
    struct conn **heap; /* paced streams by next_ns, 1-based */
    size_t heap_len, heap_cap;
    struct conn *ready; /* ring */
    uint64_t connections, active_streams, requests, streams, aborted, events, timer_at;
    char buffer[READ_BYTES];
};

extern struct mock mock;

/* ---- mock.c: false where the connection is gone ---- */

/* What does not fit into the socket waits in `out`. */
bool conn_write(struct conn *c, const char *bytes, size_t len);
void conn_close(struct conn *c);

/* ---- mock_streams.c ---- */

/* Writes a mark (wire.h). */
void mark_put(char *mark, unsigned seq, uint64_t at_ns);
bool stream_begin(struct conn *c);
/* It has no more to write of: takes it out of heap and ring. */
void stream_forget(struct conn *c);
/* The socket takes more: a flat-out stream goes on. */
void stream_resume(struct conn *c);
/* Every paced stream ends with its next write. */
void streams_finish(void);
void streams_write_due(void);

#endif
