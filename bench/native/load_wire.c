/* The load client: connections, requests going out, answers coming in. */
#include "load.h"

#define PIECE_BYTES (16 * 1024)

/* ---- connections ---- */

void error_note(const struct conn *c, const char *what, const char *detail, size_t detail_len) {
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

/* How much of the first `whole` bytes may be sent by now, in pieces; `next_ns` becomes the time of the next piece. */
static size_t bytes_due(const struct conn *c, size_t whole, uint64_t *next_ns) {
    if (!c->request->rate) return whole;
    uint64_t piece_ns = PIECE_BYTES * NS_PER_S / c->request->rate;
    uint64_t pieces = 1 + (now_ns() - c->started_ns) / piece_ns;
    if (pieces * PIECE_BYTES >= whole) return whole;
    *next_ns = c->started_ns + pieces * piece_ns;
    return pieces * PIECE_BYTES;
}

uint64_t conn_send(struct conn *c) {
    uint64_t next_ns = 0;
    size_t whole = c->leave == LEAVES_WHILE_SENDING ? c->leave_at : c->request->len;
    size_t due = bytes_due(c, whole, &next_ns);
    while (c->sent < due) {
        if (due == whole) c->last_send_ns = now_ns();
        ssize_t n = send(c->fd, c->request->bytes + c->sent, due - c->sent, MSG_NOSIGNAL);
        if (n < 0) return next_ns; /* full, or an early answer may still be readable: the next event tells */
        c->sent += (size_t)n;
    }
    if (c->sent == whole && (c->leave == LEAVES_WHILE_SENDING || c->leave == LEAVES_AFTER_SENDING)) conn_left(c);
    return next_ns;
}

void conn_start(struct conn *c, const struct request *request) {
    c->request = request;
    c->sent = c->head_len = c->mark_len = 0;
    c->in_body = c->closes = false;
    c->status = 0;
    c->body_bytes = c->event_ns = c->started_ns = c->last_send_ns = 0;
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
    unsigned seq = (unsigned)strtoul(c->mark + 1, NULL, 10);
    uint64_t born_ns = strtoull(c->mark + 2 + MARK_SEQ_DIGITS, NULL, 10) * 1000;
    if (seq != c->next_seq) load.disordered++;
    c->next_seq = seq + 1;
    c->events++;
    if (load.mode->marked) load.mode->marked(c, born_ns);
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

void conn_event(struct conn *c, uint32_t events) {
    if (c->fd < 0) return;
    unsigned generation = c->generation;
    if ((events & EPOLLOUT) && !(events & EPOLLERR) && c->request && c->sent < c->request->len) {
        if (!c->started_ns) c->started_ns = now_ns();
        conn_send(c);
    }
    if (c->generation == generation && (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)))
        conn_read(c, events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP));
}
