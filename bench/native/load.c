/* A load client: HTTP/1.1 keep-alive, one thread, epoll. One run, one JSON object on stdout.
 *
 *   load MODE --target HOST:PORT/PATH --body FILE [options]
 *
 *   rps      closed loop on --connections for --seconds after --warmup
 *   latency  one request at a time for --seconds after --warmup, at least one answer within --timeout; with --direct
 *            every request to --target follows one to --direct
 *   streams  --connections streams, started over --ramp seconds, each --repeat times; checks every event
 *   hold     opens --connections streams, prints the line `held` when each has had its first event, then runs
 *            `latency` with the body --small beside them
 *   churn    for --seconds clients that read to the end or leave: in the middle of sending, right after it, or after
 *            a random number of answer bytes
 *
 * Options: --direct HOST:PORT/PATH  --header LINE (repeatable)  --small FILE  --connections N  --seconds S  --warmup S
 *          --count N (latency: at most)  --rate N (latency: bytes per second, in pieces; else as fast as they go)
 *          --chunks N (events that a stream must have)  --repeat N  --ramp S  --timeout S
 *          --drain S (hold: at the end print the line `measured` and wait so long for the streams to end)  --seed N
 *          --cpu NAME=PID,PID (repeatable: CPU time of these processes over the measured window; the client's own is
 *          always there as `load`)
 * Times in the answer are milliseconds (`_ms`) or seconds (`_s`). `last_byte_ms` is from just before the client's last
 * send to the arrival of the last byte at the mock, which says when that was.
 */
#include "load.h"

#define EVENTS_PER_WAIT 512
#define CONNECTIONS_MAX 20000

struct load load;

/* ---- samples and clocks ---- */

void sample_add(struct samples *s, uint64_t ns) {
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

void window_open(void) {
    load.window_ns = now_ns();
    load.measuring = true;
    for (size_t i = 0; i < load.clock_count; i++) load.clocks[i].before_s = group_cpu_s(&load.clocks[i]);
}

void window_close(void) {
    if (load.closed_ns || load.over) {
        load.over = true;
        return;
    }
    if (!load.window_ns) window_open();
    for (size_t i = 0; i < load.clock_count; i++) load.clocks[i].after_s = group_cpu_s(&load.clocks[i]);
    load.closed_ns = now_ns();
    load.measuring = false;
    load.open_at_close = load.open_streams;
    load.over = !(load.mode->lingers && load.mode->lingers());
}

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
        {"--connections", &load.connections, NULL}, {"--count", &load.count, NULL},
        {"--chunks", &load.chunks, NULL},           {"--repeat", &load.repeat, NULL},
        {"--rate", &load.small.rate, NULL},         {"--seconds", NULL, &load.seconds},
        {"--warmup", NULL, &load.warmup_s},         {"--ramp", NULL, &load.ramp_s},
        {"--timeout", NULL, &load.timeout_s},       {"--drain", NULL, &load.drain_s},
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
    for (size_t i = 0; argc > 1 && i < mode_count; i++)
        if (!strcmp(modes[i].name, argv[1])) load.mode = &modes[i];
    if (!load.mode) die("usage: load rps|latency|streams|hold|churn --target HOST:PORT/PATH --body FILE [options]");
    for (int i = 2; i < argc; i += 2) {
        char *name = argv[i], *value = argv[i + 1];
        if (!value) die("%s needs a value", name);
        if (!strcmp(name, "--target")) target_parse(&load.target, value);
        else if (!strcmp(name, "--direct")) target_parse(&load.direct, value), load.has_direct = true;
        else if (!strcmp(name, "--header") && load.header_count < HEADERS_MAX)
            load.headers[load.header_count++] = value;
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
    load.small_direct.rate = load.small.rate;
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
           (unsigned long long)load.left, load.open_at_close);
    print_samples("latency_ms", &load.latency);
    print_samples("direct_ms", &load.direct_latency);
    print_samples("first_ms", &load.first);
    print_samples("gap_ms", &load.gap);
    print_samples("delay_ms", &load.delay);
    print_samples("last_byte_ms", &load.last_byte);
    print_samples("direct_last_byte_ms", &load.direct_last_byte);
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
