/* A mock model server: HTTP/1.1 keep-alive, one thread, epoll.
 *
 *   mock [--port N] [--chunks N] [--pace N] [--first-ms N] [--burst N]
 *
 * Prints `mock listening on http://127.0.0.1:PORT` when ready.
 *   POST (any path)      a chat completion; streamed where the first or last 4 KiB of the body say "stream":true.
 *                        usage.prompt_tokens is the number of body bytes that arrived; the text ends with a mark
 *                        (wire.h) of the time at which the last one came.
 *   GET  /bench/stats    counters
 *   POST /bench/profile?chunks=N&pace=N&first_ms=N&burst=N   how streams that start from now on look; pace is in
 *                        writes per second and stream, 0 is flat out, round robin over the streams; burst is events
 *                        per write.
 *   POST /bench/finish   every paced stream ends with its next write
 *   GET  (other paths)   a model list
 * Every content event of a stream carries a mark with its sequence number and its time of birth.
 */
#include "mock.h"

#define EVENTS_PER_WAIT 512

struct mock mock;

/* ---- writing ---- */

void conn_close(struct conn *c) {
    if (c->streaming) mock.active_streams--, mock.aborted++;
    stream_forget(c);
    close(c->fd);
    free(c);
    mock.connections--;
}

static bool conn_flush(struct conn *c) {
    size_t done = 0;
    while (done < c->out_len) {
        ssize_t n = send(c->fd, c->out + done, c->out_len - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) return false;
        done += (size_t)n;
    }
    memmove(c->out, c->out + done, c->out_len - done);
    c->out_len -= done;
    return true;
}

bool conn_write(struct conn *c, const char *bytes, size_t len) {
    if (c->out_len + len > OUT_MAX) return false;
    memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
    return conn_flush(c);
}

static bool answer_json(struct conn *c, const char *json) {
    char text[OUT_MAX];
    int len = snprintf(text, sizeof text,
                       "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                       strlen(json), json);
    return conn_write(c, text, (size_t)len);
}

/* ---- answering ---- */

static bool asks_for_stream(const struct conn *c) {
    static const char *const spellings[] = {"\"stream\":true", "\"stream\": true"};
    for (size_t i = 0; i < 2; i++) {
        size_t len = strlen(spellings[i]);
        if (memmem(c->front, c->front_len, spellings[i], len) || memmem(c->tail, c->tail_len, spellings[i], len))
            return true;
    }
    return false;
}

static bool answer_chat(struct conn *c) {
    char json[512];
    if (asks_for_stream(c)) return stream_begin(c);
    char mark[] = MARK_BLANK;
    mark_put(mark, 0, now_ns());
    snprintf(json, sizeof json,
             "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,"
             "\"model\":\"qwen3-coder-plus\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\","
             "\"content\":\"The function returns the sum of both numbers. %s\"},\"finish_reason\":\"stop\"}],"
             "\"usage\":{\"prompt_tokens\":%llu,\"completion_tokens\":9,\"total_tokens\":%llu}}",
             mark, (unsigned long long)c->body_bytes, (unsigned long long)c->body_bytes + 9);
    return answer_json(c, json);
}

static bool answer_stats(struct conn *c) {
    char json[512];
    snprintf(json, sizeof json,
             "{\"connections\":%llu,\"active_streams\":%llu,\"requests\":%llu,\"streams\":%llu,\"aborted\":%llu,"
             "\"events\":%llu}",
             (unsigned long long)mock.connections, (unsigned long long)mock.active_streams,
             (unsigned long long)mock.requests, (unsigned long long)mock.streams, (unsigned long long)mock.aborted,
             (unsigned long long)mock.events);
    return answer_json(c, json);
}

static unsigned query_number(const char *target, const char *name, unsigned otherwise) {
    const char *at = strstr(target, name);
    return at ? (unsigned)strtoul(at + strlen(name), NULL, 10) : otherwise;
}

static void profile_correct(void) {
    struct profile *profile = &mock.profile;
    if (!profile->chunks) profile->chunks = 1;
    if (!profile->burst) profile->burst = 1;
    if (profile->burst > BURST_MAX) profile->burst = BURST_MAX;
}

static bool answer_profile(struct conn *c, const char *target) {
    mock.profile.chunks = query_number(target, "chunks=", mock.profile.chunks);
    mock.profile.pace = query_number(target, "pace=", mock.profile.pace);
    mock.profile.first_ms = query_number(target, "first_ms=", mock.profile.first_ms);
    mock.profile.burst = query_number(target, "burst=", mock.profile.burst);
    profile_correct();
    return answer_json(c, "{\"ok\":true}");
}

static bool answer_finish(struct conn *c) {
    streams_finish();
    return answer_json(c, "{\"ok\":true}");
}

static bool answer(struct conn *c) {
    char target[256] = "";
    char *space = memchr(c->head, ' ', c->head_len);
    if (space) sscanf(space + 1, "%255[^ \r]", target);
    if (!strcmp(target, "/bench/stats")) return answer_stats(c);
    if (!strncmp(target, "/bench/profile", 14)) return answer_profile(c, target);
    if (!strcmp(target, "/bench/finish")) return answer_finish(c);
    mock.requests++;
    if (!strncmp(c->head, "POST ", 5)) return answer_chat(c);
    return answer_json(c, "{\"object\":\"list\",\"data\":[{\"id\":\"qwen3-coder-plus\",\"object\":\"model\","
                          "\"created\":1700000000,\"owned_by\":\"bench\"}]}");
}

/* ---- reading ---- */

static void take_body(void *owner, const char *bytes, size_t len) {
    struct conn *c = owner;
    c->body_bytes += len;
    size_t room = WINDOW_BYTES - c->front_len;
    size_t part = len < room ? len : room;
    memcpy(c->front + c->front_len, bytes, part);
    c->front_len += part;
    if (len >= WINDOW_BYTES) {
        memcpy(c->tail, bytes + len - WINDOW_BYTES, WINDOW_BYTES);
        c->tail_len = WINDOW_BYTES;
        return;
    }
    size_t keep = c->tail_len + len > WINDOW_BYTES ? WINDOW_BYTES - len : c->tail_len;
    memmove(c->tail, c->tail + c->tail_len - keep, keep);
    memcpy(c->tail + keep, bytes, len);
    c->tail_len = keep + len;
}

static bool take_head(struct conn *c, const char *bytes, size_t len, size_t *used) {
    size_t old = c->head_len;
    size_t part = len < HEAD_MAX - old ? len : HEAD_MAX - old;
    memcpy(c->head + old, bytes, part);
    size_t end = head_end(c->head, old + part, old);
    c->head_len = end ? end : old + part;
    *used = c->head_len - old;
    if (!end) return c->head_len < HEAD_MAX;
    c->in_body = true;
    c->body = body_from_head(c->head, c->head_len, false);
    c->body_bytes = c->front_len = c->tail_len = 0;
    if (header_is(c->head, c->head_len, "expect", "100-continue"))
        return conn_write(c, "HTTP/1.1 100 Continue\r\n\r\n", 25);
    return true;
}

/* False where the connection has to be closed. */
static bool conn_feed(struct conn *c, const char *bytes, size_t len) {
    while (len || (c->in_body && c->body.state == BODY_DONE)) {
        size_t used = 0;
        if (!c->in_body) {
            if (!take_head(c, bytes, len, &used)) return false;
        } else if (c->body.state != BODY_DONE) {
            used = body_feed(&c->body, bytes, len, take_body, c);
            if (c->body.state == BODY_BROKEN) return false;
        } else {
            if (c->streaming) return false; /* no pipelining behind a stream */
            c->in_body = false;
            bool closes = header_is(c->head, c->head_len, "connection", "close");
            bool alive = answer(c);
            c->head_len = 0;
            if (!alive || (closes && !c->streaming)) return false;
        }
        bytes += used;
        len -= used;
    }
    return true;
}

/* A short read means that the socket is empty, unless an end of file may stand behind the bytes (epoll(7)). */
static bool conn_read(struct conn *c, bool peer_ended) {
    ssize_t n;
    do {
        n = recv(c->fd, mock.buffer, sizeof mock.buffer, 0);
        if (n < 0 && errno == EAGAIN) return true;
        if (n <= 0 || !conn_feed(c, mock.buffer, (size_t)n)) return false;
    } while (peer_ended || n == sizeof mock.buffer);
    return true;
}

static void accept_all(void) {
    for (;;) {
        int fd = accept4(mock.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) return;
        no_delay(fd);
        struct conn *c = grown(NULL, sizeof *c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        mock.connections++;
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = c};
        epoll_ctl(mock.epoll_fd, EPOLL_CTL_ADD, fd, &event);
    }
}

/* ---- the loop ---- */

static void conn_event(struct conn *c, uint32_t events) {
    bool alive = !(events & (EPOLLERR | EPOLLHUP));
    if (alive && (events & EPOLLOUT) && c->out_len) alive = conn_flush(c);
    if (alive && (events & (EPOLLIN | EPOLLRDHUP))) alive = conn_read(c, events & EPOLLRDHUP);
    if (!alive) conn_close(c);
    else stream_resume(c);
}

static void serve(void) {
    struct epoll_event events[EVENTS_PER_WAIT];
    for (;;) {
        int n = epoll_wait(mock.epoll_fd, events, EVENTS_PER_WAIT, mock.ready ? 0 : -1);
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr == &mock.listen_fd) accept_all();
            else if (events[i].data.ptr == &mock.timer_fd) drain_timer(mock.timer_fd);
            else conn_event(events[i].data.ptr, events[i].events);
        }
        streams_write_due();
    }
}

static void watch(int fd, void *tag) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = tag};
    epoll_ctl(mock.epoll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void listen_on(unsigned port) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    socklen_t size = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    mock.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(mock.listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(mock.listen_fd, (struct sockaddr *)&address, size) || listen(mock.listen_fd, 4096))
        die("port %u: %s", port, strerror(errno));
    getsockname(mock.listen_fd, (struct sockaddr *)&address, &size);
    printf("mock listening on http://127.0.0.1:%u\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv) {
    unsigned port = 0;
    mock.profile.chunks = 50;
    for (int i = 1; i < argc; i += 2) {
        if (i + 1 == argc) die("%s needs a value", argv[i]);
        unsigned value = (unsigned)strtoul(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--port")) port = value;
        else if (!strcmp(argv[i], "--chunks")) mock.profile.chunks = value;
        else if (!strcmp(argv[i], "--pace")) mock.profile.pace = value;
        else if (!strcmp(argv[i], "--first-ms")) mock.profile.first_ms = value;
        else if (!strcmp(argv[i], "--burst")) mock.profile.burst = value;
        else die("unknown option %s", argv[i]);
    }
    profile_correct();
    raise_descriptor_limit();
    mock.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    mock.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    listen_on(port);
    watch(mock.listen_fd, &mock.listen_fd);
    watch(mock.timer_fd, &mock.timer_fd);
    serve();
}
