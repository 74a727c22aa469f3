/* The mock model server: its streams, paced or flat out. */
#include "mock.h"

/* ---- the heap of paced streams ---- */

static void heap_put(size_t at, struct conn *c) {
    mock.heap[at] = c;
    c->heap_at = at;
}

static void heap_up(size_t at) {
    struct conn *c = mock.heap[at];
    for (; at > 1 && mock.heap[at / 2]->next_ns > c->next_ns; at /= 2) heap_put(at, mock.heap[at / 2]);
    heap_put(at, c);
}

static void heap_down(size_t at) {
    struct conn *c = mock.heap[at];
    for (size_t child; (child = at * 2) <= mock.heap_len; at = child) {
        if (child < mock.heap_len && mock.heap[child + 1]->next_ns < mock.heap[child]->next_ns) child++;
        if (mock.heap[child]->next_ns >= c->next_ns) break;
        heap_put(at, mock.heap[child]);
    }
    heap_put(at, c);
}

static void heap_add(struct conn *c) {
    if (mock.heap_len + 2 > mock.heap_cap) {
        mock.heap_cap = mock.heap_cap ? mock.heap_cap * 2 : 1024;
        mock.heap = grown(mock.heap, mock.heap_cap * sizeof *mock.heap);
    }
    heap_put(++mock.heap_len, c);
    heap_up(mock.heap_len);
}

static void heap_remove(struct conn *c) {
    size_t at = c->heap_at;
    c->heap_at = 0;
    struct conn *last = mock.heap[mock.heap_len--];
    if (last == c) return;
    heap_put(at, last);
    heap_up(at);
    heap_down(last->heap_at);
}

/* ---- the ring of flat-out streams ---- */

static void ready_add(struct conn *c) {
    if (c->ready) return;
    c->ready = true;
    if (!mock.ready) {
        mock.ready = c->prev = c->next = c;
        return;
    }
    c->next = mock.ready;
    c->prev = mock.ready->prev;
    c->prev->next = c->next->prev = c;
}

static void ready_remove(struct conn *c) {
    if (!c->ready) return;
    c->ready = false;
    if (c->next == c) mock.ready = NULL;
    else {
        c->prev->next = c->next;
        c->next->prev = c->prev;
        if (mock.ready == c) mock.ready = c->next;
    }
}

/* ---- events ---- */

static void put_digits(char *end, unsigned digits, uint64_t value) {
    while (digits--) {
        *--end = (char)('0' + value % 10);
        value /= 10;
    }
}

#define CHUNK_OPEN "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
                   "\"model\":\"qwen3-coder-plus\",\"choices\":[{\"index\":0,\"delta\":"

static const char stream_head[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";
static const char event_first[] =
    CHUNK_OPEN "{\"role\":\"assistant\",\"content\":\"" MARK_BLANK "\"},\"finish_reason\":null}]}";
static const char event_later[] = CHUNK_OPEN "{\"content\":\"" MARK_BLANK "\"},\"finish_reason\":null}]}";
static const char event_last[] = CHUNK_OPEN "{},\"finish_reason\":\"stop\"}]}";
_Static_assert(sizeof event_first + 16 <= EVENT_BYTES, "an event with its framing");

void mark_put(char *mark, unsigned seq, uint64_t at_ns) {
    put_digits(mark + 1 + MARK_SEQ_DIGITS, MARK_SEQ_DIGITS, seq);
    put_digits(mark + MARK_LEN - 1, MARK_TIME_DIGITS, at_ns / 1000);
}

/* One event as one HTTP chunk of less than 256 bytes, into `text`. */
static size_t chunk_format(char *text, const char *event, size_t event_len) {
    static const char hex[] = "0123456789abcdef";
    size_t size = event_len + 8, len = 0;
    if (size >= 16) text[len++] = hex[size / 16];
    text[len++] = hex[size % 16];
    memcpy(text + len, "\r\ndata: ", 8);
    memcpy(text + len + 8, event, event_len);
    memcpy(text + len + 8 + event_len, "\n\n\r\n", 4);
    return len + 8 + event_len + 4;
}

static size_t event_format(char *text, unsigned seq, uint64_t born_ns) {
    size_t len = seq ? chunk_format(text, event_later, sizeof event_later - 1)
                     : chunk_format(text, event_first, sizeof event_first - 1);
    mark_put(memchr(text, '~', len), seq, born_ns);
    return len;
}

static size_t end_format(char *text) {
    size_t len = chunk_format(text, event_last, sizeof event_last - 1);
    len += chunk_format(text + len, "[DONE]", 6);
    memcpy(text + len, "0\r\n\r\n", 5);
    return len + 5;
}

/* The next event, or the next few, in one write; the end goes with the last of them. */
static bool stream_write(struct conn *c) {
    char text[OUT_MAX];
    size_t len = 0;
    uint64_t now = now_ns();
    for (unsigned n = 0; n < c->profile.burst && c->seq < c->profile.chunks; n++, c->seq++, mock.events++)
        len += event_format(text + len, c->seq, now);
    if (c->seq == c->profile.chunks) {
        len += end_format(text + len);
        c->streaming = false;
        mock.active_streams--;
        stream_forget(c);
    }
    return conn_write(c, text, len);
}

void stream_forget(struct conn *c) {
    if (c->heap_at) heap_remove(c);
    ready_remove(c);
}

void stream_resume(struct conn *c) {
    if (c->streaming && !c->heap_at && !c->out_len) ready_add(c);
}

bool stream_begin(struct conn *c) {
    c->streaming = true;
    c->profile = mock.profile;
    c->seq = 0;
    mock.active_streams++;
    mock.streams++;
    if (!conn_write(c, stream_head, sizeof stream_head - 1)) return false;
    if (!c->profile.pace && !c->profile.first_ms) {
        ready_add(c);
        return true;
    }
    c->next_ns = now_ns() + c->profile.first_ms * 1000000ULL;
    heap_add(c);
    return true;
}

void streams_finish(void) {
    for (size_t i = 1; i <= mock.heap_len; i++) mock.heap[i]->profile.chunks = mock.heap[i]->seq + 1;
}

/* ---- what is due ---- */

static void write_flat_out(void) {
    struct conn *last = mock.ready ? mock.ready->prev : NULL;
    for (struct conn *c = mock.ready, *next; c; c = next) {
        next = c == last ? NULL : c->next;
        if (!stream_write(c)) conn_close(c);
        else if (c->out_len) ready_remove(c);
    }
}

static void write_paced(void) {
    uint64_t now = now_ns();
    while (mock.heap_len && mock.heap[1]->next_ns <= now) {
        struct conn *c = mock.heap[1];
        if (!c->profile.pace) {
            heap_remove(c);
            ready_add(c);
            continue;
        }
        c->next_ns += NS_PER_S / c->profile.pace;
        heap_down(1);
        if (!c->out_len && !stream_write(c)) conn_close(c);
    }
    uint64_t at = mock.heap_len ? mock.heap[1]->next_ns : 0;
    if (at != mock.timer_at) arm_timer(mock.timer_fd, mock.timer_at = at);
}

void streams_write_due(void) {
    write_paced();
    write_flat_out();
}
