/* The load client's parts: `load.c` options and result, `load_wire.c` connections and answers, `load_modes.c` what is
 * sent when and when it is over. One thread, one run, so one `load` holds all of it. */
#ifndef QPROXY_BENCH_LOAD_H
#define QPROXY_BENCH_LOAD_H

#include "wire.h"

#define HEADERS_MAX 16
#define CLOCKS_MAX 8
#define PIDS_MAX 64
#define TAIL_BYTES 16
#define ERROR_TEXT_BYTES 240

struct samples {
    double *values;
    size_t len, cap;
};

struct target {
    struct sockaddr_in address;
    char authority[64];
    const char *path;
};

struct request {
    const struct target *target;
    char *bytes;
    size_t len;
    unsigned rate; /* bytes per second; 0: as fast as they go */
};

enum leave { STAYS, LEAVES_WHILE_SENDING, LEAVES_AFTER_SENDING, LEAVES_WHILE_READING };

struct conn {
    int fd; /* -1: closed */
    unsigned generation;
    const struct request *request; /* NULL: idle */
    size_t sent;
    char head[HEAD_MAX];
    size_t head_len;
    bool in_body, closes;
    int status;
    struct body body;
    uint64_t body_bytes, started_ns, event_ns, last_send_ns;
    unsigned events, next_seq, repeats_left;
    char mark[MARK_LEN];
    size_t mark_len;
    char tail[TAIL_BYTES];
    enum leave leave;
    size_t leave_at;
};

struct clock_group {
    const char *name;
    clockid_t clocks[PIDS_MAX];
    size_t len;
    double before_s, after_s;
};

struct mode {
    const char *name;
    void (*start)(void);
    /* The exchange is over and the connection idle, or closed if it could not be kept. */
    void (*finished)(struct conn *c, bool ok);
    void (*marked)(struct conn *c, uint64_t born_ns); /* a mark came; may be NULL */
    uint64_t (*tick)(uint64_t now); /* returns when to be called again, 0: never */
    bool (*lingers)(void);          /* the window is closed: does the run go on? NULL: no */
};

struct load {
    /* options */
    struct target target, direct;
    bool has_direct;
    const char *headers[HEADERS_MAX];
    size_t header_count;
    unsigned connections, count, chunks, repeat;
    double seconds, warmup_s, ramp_s, timeout_s, drain_s;
    uint64_t random;
    /* the run */
    const struct mode *mode;
    struct request request, small, small_direct;
    struct conn *conns;
    int epoll_fd, timer_fd;
    bool over, measuring;
    uint64_t begun_ns, window_ns, closed_ns;
    unsigned started, open_streams, finished_streams, open_at_close;
    struct clock_group clocks[CLOCKS_MAX];
    size_t clock_count;
    /* the result */
    struct samples latency, direct_latency, first, gap, delay, last_byte, direct_last_byte;
    uint64_t ok, errors, complete, events, disordered, left;
    char first_error[ERROR_TEXT_BYTES];
    char buffer[READ_BYTES];
};

extern struct load load;
extern const struct mode modes[];
extern const size_t mode_count;

/* ---- load.c ---- */

void sample_add(struct samples *s, uint64_t ns);
/* The window of the CPU clocks and of what is counted. Closing it ends the run, unless the mode lingers; closing it
 * again ends that too. */
void window_open(void);
void window_close(void);

/* ---- load_wire.c ---- */

/* Connects where it must; the clock of the exchange starts when the connection is there. */
void conn_start(struct conn *c, const struct request *request);
void conn_event(struct conn *c, uint32_t events);
/* Sends what may be sent by now; returns when there may be more, 0: whenever the socket takes it. */
uint64_t conn_send(struct conn *c);
void error_note(const struct conn *c, const char *what, const char *detail, size_t detail_len);

#endif
