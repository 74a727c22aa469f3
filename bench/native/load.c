/* A load client: HTTP/1.1 keep-alive, one thread, epoll. One run, one JSON object on stdout.
 *
 *   load MODE --target HOST:PORT/PATH --body FILE [options]
 *
 *   rps      closed loop on --connections for --seconds after --warmup
 *   latency  one request at a time; with --direct every request to --target follows one to --direct
 *   streams  --connections streams, started over --ramp seconds, each --repeat times; checks every event
 *   hold     opens --connections streams, prints the line `held` when each has had its first event, then runs
 *            `latency` with the body --small beside them
 *   churn    for --seconds clients that read to the end or leave: in the middle of sending, right after it, or after
 *            a random number of answer bytes
 *
 * Options: --direct HOST:PORT/PATH  --header LINE (repeatable)  --small FILE  --connections N  --seconds S  --warmup S
 *          --count N (latency: at most)  --chunks N (events that a stream must have)  --repeat N  --ramp S  --timeout S
 *          --seed N  --cpu NAME=PID,PID (repeatable: CPU time of these processes over the measured window; the
 *          client's own is always there as `load`)
 * Times in the answer are milliseconds (`_ms`) or seconds (`_s`).
 */
#include "wire.h"

#define EVENTS_PER_WAIT 512
#define CONNECTIONS_MAX 20000
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
    uint64_t body_bytes, started_ns, event_ns;
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
    void (*event)(struct conn *c); /* a stream's event came; may be NULL */
    uint64_t (*tick)(uint64_t now); /* returns when to be called again, 0: never */
};

static struct {
    /* options */
    struct target target, direct;
    bool has_direct;
    const char *headers[HEADERS_MAX];
    size_t header_count;
    unsigned connections, count, chunks, repeat;
    double seconds, warmup_s, ramp_s, timeout_s;
    uint64_t random;
    /* the run */
    const struct mode *mode;
    struct request request, small, small_direct;
    struct conn *conns;
    int epoll_fd, timer_fd;
    bool over, measuring;
    uint64_t begun_ns, window_ns, closed_ns;
    unsigned started, open_streams, finished_streams;
    struct clock_group clocks[CLOCKS_MAX];
    size_t clock_count;
    /* the result */
    struct samples latency, direct_latency, first, gap, delay;
    uint64_t ok, errors, complete, events, disordered, left;
    char first_error[ERROR_TEXT_BYTES];
    char buffer[READ_BYTES];
} load;

/* ---- samples and clocks ---- */

static void sample_add(struct samples *s, uint64_t ns) {
    if (s->len == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 4096;
        s->values = grown(s->values, s->cap * sizeof *s->values);
    }
    s->values[s->len++] = (double)ns / 1e6;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double quantile(const struct samples *sorted, double q) {
    size_t at = (size_t)(q * (double)(sorted->len - 1) + 0.5);
    return sorted->values[at];
}

static double group_cpu_s(const struct clock_group *group) {
    double sum = 0;
    for (size_t i = 0; i < group->len; i++) {
        struct timespec t;
        if (clock_gettime(group->clocks[i], &t) == 0) sum += (double)t.tv_sec + (double)t.tv_nsec / 1e9;
    }
    return sum;
}

static void window_open(void) {
    load.window_ns = now_ns();
    load.measuring = true;
    for (size_t i = 0; i < load.clock_count; i++) load.clocks[i].before_s = group_cpu_s(&load.clocks[i]);
}

static void window_close(void) {
    if (load.over) return;
    if (!load.window_ns) window_open();
    for (size_t i = 0; i < load.clock_count; i++) load.clocks[i].after_s = group_cpu_s(&load.clocks[i]);
    load.closed_ns = now_ns();
    load.measuring = false;
    load.over = true;
}

static uint64_t after(uint64_t from, double seconds) { return from + (uint64_t)(seconds * 1e9); }

static uint64_t next_random(uint64_t below) {
    load.random ^= load.random << 13;
    load.random ^= load.random >> 7;
    load.random ^= load.random << 17;
    return load.random % below;
}

/* ---- connections ---- */

static void error_note(const struct conn *c, const char *what, const char *detail, size_t detail_len) {
    load.errors++;
    if (load.first_error[0]) return;
    int len = snprintf(load.first_error, sizeof load.first_error, "%s (status %d, %llu body bytes) ", what, c->status,
                       (unsigned long long)c->body_bytes);
    for (size_t i = 0; i < detail_len && (size_t)len < sizeof load.first_error - 1; i++) {
        char byte = detail[i];
        load.first_error[len++] = byte < ' ' || byte == '"' || byte == '\\' || byte > '~' ? ' ' : byte;
    }
    load.first_error[len] = 0;
}

static void conn_drop(struct conn *c) {
    if (c->fd >= 0) close(c->fd);
    c->fd = -1;
    c->generation++;
    c->request = NULL;
}

static void conn_connect(struct conn *c, const struct target *target) {
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    no_delay(c->fd);
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
    epoll_ctl(load.epoll_fd, EPOLL_CTL_ADD, c->fd, &event);
    /* A refused connection shows as an error event. */
    if (connect(c->fd, (const struct sockaddr *)&target->address, sizeof target->address) && errno != EINPROGRESS &&
        errno != ECONNREFUSED)
        die("connect: %s", strerror(errno));
}

static void conn_failed(struct conn *c, const char *what, const char *detail, size_t detail_len) {
    error_note(c, what, detail, detail_len);
    conn_drop(c);
    load.mode->finished(c, false);
}

static void conn_left(struct conn *c) {
    load.left++;
    conn_drop(c);
    load.mode->finished(c, true);
}

static void conn_send(struct conn *c) {
    size_t limit = c->leave == LEAVES_WHILE_SENDING ? c->leave_at : c->request->len;
    while (c->sent < limit) {
        ssize_t n = send(c->fd, c->request->bytes + c->sent, limit - c->sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return;
        if (n < 0) return; /* an early answer may still be readable; the read tells */
        c->sent += (size_t)n;
    }
    if (c->leave == LEAVES_WHILE_SENDING || c->leave == LEAVES_AFTER_SENDING) conn_left(c);
}

/* Connects where it must; the clock of the exchange starts when the connection is there. */
static void conn_start(struct conn *c, const struct request *request) {
    c->request = request;
    c->sent = c->head_len = c->mark_len = 0;
    c->in_body = c->closes = false;
    c->status = 0;
    c->body_bytes = c->event_ns = c->started_ns = 0;
    c->events = c->next_seq = 0;
    memset(c->tail, 0, sizeof c->tail);
    if (c->fd < 0) {
        conn_connect(c, request->target);
        return; /* the first EPOLLOUT sends */
    }
    c->started_ns = now_ns();
    conn_send(c);
}

/* ---- answers ---- */

static void mark_seen(struct conn *c) {
    uint64_t now = now_ns();
    unsigned seq = (unsigned)strtoul(c->mark + 1, NULL, 10);
    uint64_t born = strtoull(c->mark + 2 + MARK_SEQ_DIGITS, NULL, 10) * 1000;
    if (seq != c->next_seq) load.disordered++;
    c->next_seq = seq + 1;
    c->events++;
    load.events++;
    sample_add(&load.delay, now > born ? now - born : 0);
    if (c->event_ns) sample_add(&load.gap, now - c->event_ns);
    else sample_add(&load.first, now - c->started_ns);
    c->event_ns = now;
    if (load.mode->event) load.mode->event(c);
}

static void scan_marks(struct conn *c, const char *bytes, size_t len) {
    const char *end = bytes + len;
    while (bytes < end) {
        if (!c->mark_len && !(bytes = memchr(bytes, '~', (size_t)(end - bytes)))) return;
        size_t part = MARK_LEN - c->mark_len;
        if (part > (size_t)(end - bytes)) part = (size_t)(end - bytes);
        memcpy(c->mark + c->mark_len, bytes, part);
        c->mark_len += part;
        bytes += part;
        if (c->mark_len < MARK_LEN) return;
        if (c->mark[MARK_LEN - 1] == '~') mark_seen(c);
        c->mark_len = 0;
    }
}

static void keep_tail(struct conn *c, const char *bytes, size_t len) {
    if (len >= TAIL_BYTES) {
        memcpy(c->tail, bytes + len - TAIL_BYTES, TAIL_BYTES);
        return;
    }
    memmove(c->tail, c->tail + len, TAIL_BYTES - len);
    memcpy(c->tail + TAIL_BYTES - len, bytes, len);
}

static void take_payload(void *owner, const char *bytes, size_t len) {
    struct conn *c = owner;
    c->body_bytes += len;
    scan_marks(c, bytes, len);
    keep_tail(c, bytes, len);
}

static bool take_head(struct conn *c, const char *bytes, size_t len, size_t *used) {
    size_t old = c->head_len;
    size_t part = len < HEAD_MAX - old ? len : HEAD_MAX - old;
    memcpy(c->head + old, bytes, part);
    size_t end = head_end(c->head, old + part, old);
    c->head_len = end ? end : old + part;
    *used = c->head_len - old;
    if (!end) return c->head_len < HEAD_MAX;
    if (sscanf(c->head, "HTTP/1.%*1[01] %3d", &c->status) != 1) return false;
    c->body = body_from_head(c->head, c->head_len, true);
    c->in_body = true;
    c->closes = c->body.state == BODY_UNTIL_CLOSE || header_is(c->head, c->head_len, "connection", "close");
    return true;
}

static void conn_done(struct conn *c, const char *last, size_t last_len) {
    if (c->status != 200) {
        conn_failed(c, "refused", last, last_len);
        return;
    }
    if (c->closes || c->sent < c->request->len) conn_drop(c);
    c->request = NULL;
    load.mode->finished(c, true);
}

/* Bytes of a body, the head of which is known. */
static void conn_feed_body(struct conn *c, const char *bytes, size_t len) {
    unsigned generation = c->generation;
    size_t used = body_feed(&c->body, bytes, len, take_payload, c);
    if (c->generation != generation) return;
    if (c->body.state == BODY_BROKEN) conn_failed(c, "bad framing", bytes, len);
    else if (c->leave == LEAVES_WHILE_READING && c->body_bytes >= c->leave_at) conn_left(c);
    else if (c->body.state == BODY_DONE && used < len)
        conn_failed(c, "bytes behind the answer", bytes + used, len - used);
    else if (c->body.state == BODY_DONE) conn_done(c, bytes, len);
}

static void conn_feed(struct conn *c, const char *bytes, size_t len) {
    size_t used = 0;
    if (!c->request) conn_failed(c, "bytes without a request", bytes, len);
    else if (!c->in_body && !take_head(c, bytes, len, &used)) conn_failed(c, "bad head", bytes, len);
    else if (c->in_body) conn_feed_body(c, bytes + used, len - used);
}

static void conn_ended(struct conn *c) {
    if (!c->request) {
        conn_drop(c); /* closed while idle */
    } else if (c->in_body && c->body.state == BODY_UNTIL_CLOSE) {
        c->body.state = BODY_DONE;
        conn_done(c, "", 0);
    } else {
        conn_failed(c, c->status ? "cut off" : "closed without an answer", "", 0);
    }
}

/* A short read means that the socket is empty, unless an end of file may stand behind the bytes (epoll(7)). */
static void conn_read(struct conn *c, bool peer_ended) {
    unsigned generation = c->generation;
    ssize_t n;
    do {
        n = recv(c->fd, load.buffer, sizeof load.buffer, 0);
        if (n < 0 && errno == EAGAIN) return;
        if (n > 0) conn_feed(c, load.buffer, (size_t)n);
        else conn_ended(c);
    } while (n > 0 && c->generation == generation && (peer_ended || n == sizeof load.buffer));
}

static void conn_event(struct conn *c, uint32_t events) {
    if (c->fd < 0) return;
    unsigned generation = c->generation;
    if ((events & EPOLLOUT) && !(events & EPOLLERR) && c->request && c->sent < c->request->len) {
        if (!c->started_ns) c->started_ns = now_ns();
        conn_send(c);
    }
    if (c->generation == generation && (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)))
        conn_read(c, events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP));
}

/* ---- rps ---- */

static bool hopeless(void) { return load.errors > 1000 + load.ok; }

static void start_all(void) {
    for (unsigned i = 0; i < load.connections; i++) conn_start(&load.conns[i], &load.request);
}

static void rps_finished(struct conn *c, bool ok) {
    if (ok && load.measuring) {
        load.ok++;
        sample_add(&load.latency, now_ns() - c->started_ns);
    }
    if (hopeless()) window_close();
    if (!load.over) conn_start(c, &load.request);
}

static uint64_t rps_tick(uint64_t now) {
    uint64_t warm = after(load.begun_ns, load.warmup_s);
    if (!load.measuring && now >= warm) window_open();
    if (!load.measuring) return warm;
    uint64_t end = after(load.window_ns, load.seconds);
    if (now >= end) window_close();
    return end;
}

/* ---- latency: the last two connections ---- */

static struct conn *probe(void) { return &load.conns[load.connections]; }

static void probe_start(void) {
    struct conn *c = probe();
    if (load.has_direct) conn_start(c + 1, &load.small_direct);
    else conn_start(c, &load.small);
}

static void probe_finished(struct conn *c, bool ok) {
    bool direct = c != probe();
    uint64_t now = now_ns();
    if (!load.measuring && now >= after(load.begun_ns, load.warmup_s) && !direct) window_open();
    else if (ok && load.measuring) {
        sample_add(direct ? &load.direct_latency : &load.latency, now - c->started_ns);
        load.ok += !direct;
    }
    if (hopeless() || (load.count && load.ok >= load.count)) window_close();
    if (load.over) return;
    if (direct) conn_start(probe(), &load.small);
    else probe_start();
}

static uint64_t probe_tick(uint64_t now) {
    uint64_t end = after(load.begun_ns, load.warmup_s + load.seconds);
    if (now >= end) window_close();
    return end;
}

/* ---- streams ---- */

static bool stream_complete(const struct conn *c) {
    return c->events == load.chunks && memmem(c->tail, sizeof c->tail, "[DONE]", 6);
}

static uint64_t start_due(uint64_t now) {
    while (load.started < load.connections) {
        uint64_t due = after(load.begun_ns, load.ramp_s * load.started / load.connections);
        if (now < due) return due;
        struct conn *c = &load.conns[load.started++];
        c->repeats_left = load.repeat - 1;
        conn_start(c, &load.request);
    }
    return 0;
}

static void streams_start(void) { window_open(); }

static void streams_finished(struct conn *c, bool ok) {
    if (ok && stream_complete(c)) load.complete++;
    else if (ok) error_note(c, "incomplete stream", c->tail, sizeof c->tail);
    load.finished_streams++;
    if (c->repeats_left && !load.over) {
        c->repeats_left--;
        conn_start(c, &load.request);
    }
    if (load.finished_streams == load.connections * load.repeat || hopeless()) window_close();
}

static uint64_t streams_tick(uint64_t now) {
    uint64_t end = after(load.begun_ns, load.timeout_s);
    if (now >= end) window_close();
    uint64_t due = start_due(now);
    return due && due < end ? due : end;
}

/* ---- hold ---- */

static void hold_settled(void) {
    load.begun_ns = now_ns();
    load.started = UINT32_MAX;
    load.delay.len = load.gap.len = 0;
    printf("held\n");
    fflush(stdout);
    probe_start();
}

static bool holding(void) { return load.started == UINT32_MAX; }

static void hold_start(void) {
    if (!load.connections) hold_settled();
}

static void hold_event(struct conn *c) {
    if (c->events != 1) return;
    load.open_streams++;
    if (load.open_streams + load.finished_streams == load.connections && !holding()) hold_settled();
}

static void hold_finished(struct conn *c, bool ok) {
    if (c >= probe()) {
        probe_finished(c, ok);
        return;
    }
    if (c->events) load.open_streams--;
    load.finished_streams++;
    if (load.finished_streams == load.connections && !holding()) window_close();
    else if (load.open_streams + load.finished_streams == load.connections && !holding()) hold_settled();
}

static uint64_t hold_tick(uint64_t now) {
    if (holding()) return probe_tick(now);
    uint64_t end = after(load.begun_ns, load.timeout_s);
    if (now >= end) window_close();
    uint64_t due = start_due(now);
    return due && due < end ? due : end;
}

/* ---- churn ---- */

static void churn_again(struct conn *c) {
    uint64_t dice = next_random(100);
    c->leave = dice < 40 ? STAYS : dice < 55 ? LEAVES_WHILE_SENDING : dice < 70 ? LEAVES_AFTER_SENDING
                                                                                 : LEAVES_WHILE_READING;
    c->leave_at = c->leave == LEAVES_WHILE_SENDING ? 1 + next_random(load.request.len - 1)
                                                   : 1 + next_random(200 * (uint64_t)load.chunks);
    conn_start(c, &load.request);
}

static void churn_start(void) {
    window_open();
    for (unsigned i = 0; i < load.connections; i++) churn_again(&load.conns[i]);
}

static void churn_finished(struct conn *c, bool ok) {
    load.ok += ok;
    if (ok && c->leave == STAYS && stream_complete(c)) load.complete++;
    if (hopeless()) window_close();
    if (!load.over) churn_again(c);
}

static uint64_t churn_tick(uint64_t now) {
    uint64_t end = after(load.window_ns, load.seconds);
    if (now >= end) window_close();
    return end;
}

static const struct mode modes[] = {
    {"rps", start_all, rps_finished, NULL, rps_tick},
    {"latency", probe_start, probe_finished, NULL, probe_tick},
    {"streams", streams_start, streams_finished, NULL, streams_tick},
    {"hold", hold_start, hold_finished, hold_event, hold_tick},
    {"churn", churn_start, churn_finished, NULL, churn_tick},
};

/* ---- options ---- */

static void target_parse(struct target *target, const char *text) {
    char host[48];
    unsigned port;
    int used = 0;
    target->address.sin_family = AF_INET;
    if (sscanf(text, "%47[0-9.]:%u%n", host, &port, &used) != 2 ||
        inet_pton(AF_INET, host, &target->address.sin_addr) != 1)
        die("a target looks like 127.0.0.1:8080/v1/chat/completions, not %s", text);
    target->address.sin_port = htons((uint16_t)port);
    snprintf(target->authority, sizeof target->authority, "%s:%u", host, port);
    target->path = text[used] ? text + used : "/";
}

static void clocks_parse(char *text) {
    if (load.clock_count == CLOCKS_MAX) die("too many --cpu");
    struct clock_group *group = &load.clocks[load.clock_count++];
    char *equals = strchr(text, '=');
    if (!equals) die("--cpu wants NAME=PID,PID");
    *equals = 0;
    group->name = text;
    for (char *pid = strtok(equals + 1, ","); pid; pid = strtok(NULL, ",")) {
        if (group->len == PIDS_MAX) die("too many processes in --cpu %s", text);
        if (clock_getcpuclockid((pid_t)atoi(pid), &group->clocks[group->len]) == 0) group->len++;
    }
}

static char *file_read(const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    if (!file) die("%s: %s", path, strerror(errno));
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    char *bytes = grown(NULL, (size_t)size + 1);
    *len = fread(bytes, 1, (size_t)size, file);
    fclose(file);
    return bytes;
}

static void request_build(struct request *request, const struct target *target, const char *body_path) {
    char head[HEAD_MAX];
    size_t body_len;
    char *body = file_read(body_path, &body_len);
    int len = snprintf(head, sizeof head, "POST %s HTTP/1.1\r\nhost: %s\r\n", target->path, target->authority);
    for (size_t i = 0; i < load.header_count; i++)
        len += snprintf(head + len, sizeof head - (size_t)len, "%s\r\n", load.headers[i]);
    len += snprintf(head + len, sizeof head - (size_t)len,
                    "accept: application/json\r\nuser-agent: qproxy-bench\r\ncontent-type: application/json\r\n"
                    "content-length: %zu\r\n\r\n", body_len);
    request->target = target;
    request->len = (size_t)len + body_len;
    request->bytes = grown(NULL, request->len);
    memcpy(request->bytes, head, (size_t)len);
    memcpy(request->bytes + len, body, body_len);
    free(body);
}

struct option {
    const char *name;
    unsigned *count;
    double *seconds;
};

static bool number_option(const char *name, const char *value) {
    const struct option options[] = {
        {"--connections", &load.connections, NULL}, {"--count", &load.count, NULL},   {"--chunks", &load.chunks, NULL},
        {"--repeat", &load.repeat, NULL},           {"--seconds", NULL, &load.seconds}, {"--warmup", NULL, &load.warmup_s},
        {"--ramp", NULL, &load.ramp_s},             {"--timeout", NULL, &load.timeout_s},
    };
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        if (strcmp(options[i].name, name)) continue;
        if (options[i].count) *options[i].count = (unsigned)strtoul(value, NULL, 10);
        else *options[i].seconds = strtod(value, NULL);
        return true;
    }
    return false;
}

static void options_parse(int argc, char **argv) {
    const char *body = NULL, *small = NULL;
    for (size_t i = 0; argc > 1 && i < sizeof modes / sizeof *modes; i++)
        if (!strcmp(modes[i].name, argv[1])) load.mode = &modes[i];
    if (!load.mode) die("usage: load rps|latency|streams|hold|churn --target HOST:PORT/PATH --body FILE [options]");
    for (int i = 2; i < argc; i += 2) {
        char *name = argv[i], *value = argv[i + 1];
        if (!value) die("%s needs a value", name);
        if (!strcmp(name, "--target")) target_parse(&load.target, value);
        else if (!strcmp(name, "--direct")) target_parse(&load.direct, value), load.has_direct = true;
        else if (!strcmp(name, "--header") && load.header_count < HEADERS_MAX) load.headers[load.header_count++] = value;
        else if (!strcmp(name, "--body")) body = value;
        else if (!strcmp(name, "--small")) small = value;
        else if (!strcmp(name, "--cpu")) clocks_parse(value);
        else if (!strcmp(name, "--seed")) load.random ^= strtoull(value, NULL, 10) << 1;
        else if (!number_option(name, value)) die("unknown option %s", name);
    }
    if (!load.target.path || !body) die("--target and --body are needed");
    if (load.connections > CONNECTIONS_MAX) die("at most %d connections", CONNECTIONS_MAX);
    request_build(&load.request, &load.target, body);
    request_build(&load.small, &load.target, small ? small : body);
    if (load.has_direct) request_build(&load.small_direct, &load.direct, small ? small : body);
}

/* ---- the result ---- */

static void print_samples(const char *name, struct samples *s) {
    if (!s->len) return;
    double sum = 0;
    for (size_t i = 0; i < s->len; i++) sum += s->values[i];
    qsort(s->values, s->len, sizeof *s->values, by_value);
    printf(",\"%s\":{\"count\":%zu,\"mean\":%.6f,\"p50\":%.6f,\"p90\":%.6f,\"p99\":%.6f,\"max\":%.6f}", name, s->len,
           sum / (double)s->len, quantile(s, 0.5), quantile(s, 0.9), quantile(s, 0.99), quantile(s, 1));
}

static void print_result(void) {
    printf("{\"mode\":\"%s\",\"requests\":%llu,\"errors\":%llu,\"first_error\":\"%s\",\"seconds\":%.6f",
           load.mode->name, (unsigned long long)load.ok, (unsigned long long)load.errors, load.first_error,
           (double)(load.closed_ns - load.window_ns) / 1e9);
    printf(",\"complete\":%llu,\"events\":%llu,\"disordered\":%llu,\"left\":%llu,\"open_streams\":%u",
           (unsigned long long)load.complete, (unsigned long long)load.events, (unsigned long long)load.disordered,
           (unsigned long long)load.left, load.open_streams);
    print_samples("latency_ms", &load.latency);
    print_samples("direct_ms", &load.direct_latency);
    print_samples("first_ms", &load.first);
    print_samples("gap_ms", &load.gap);
    print_samples("delay_ms", &load.delay);
    printf(",\"cpu_s\":{");
    for (size_t i = 0; i < load.clock_count; i++)
        printf("%s\"%s\":%.9f", i ? "," : "", load.clocks[i].name, load.clocks[i].after_s - load.clocks[i].before_s);
    printf("}}\n");
}

static void run(void) {
    struct epoll_event events[EVENTS_PER_WAIT], timer = {.events = EPOLLIN, .data.ptr = NULL};
    uint64_t armed = 0;
    load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    load.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    epoll_ctl(load.epoll_fd, EPOLL_CTL_ADD, load.timer_fd, &timer);
    load.begun_ns = now_ns();
    load.mode->start();
    while (!load.over) {
        uint64_t at = load.mode->tick(now_ns());
        if (at != armed) arm_timer(load.timer_fd, armed = at);
        int n = load.over ? 0 : epoll_wait(load.epoll_fd, events, EVENTS_PER_WAIT, -1);
        for (int i = 0; i < n && !load.over; i++) {
            if (events[i].data.ptr) conn_event(events[i].data.ptr, events[i].events);
            else drain_timer(load.timer_fd);
        }
    }
}

int main(int argc, char **argv) {
    load.connections = load.repeat = load.chunks = 1;
    load.seconds = 1;
    load.timeout_s = 60;
    load.random = 0x9e3779b97f4a7c15ULL;
    load.clocks[load.clock_count++] = (struct clock_group){"load", {CLOCK_PROCESS_CPUTIME_ID}, 1, 0, 0};
    options_parse(argc, argv);
    raise_descriptor_limit();
    load.conns = calloc(load.connections + 2, sizeof *load.conns);
    if (!load.conns) die("out of memory");
    for (unsigned i = 0; i < load.connections + 2; i++) load.conns[i].fd = -1;
    run();
    print_result();
}
