/* The load client: what each mode sends, what it samples, and when it is over. */
#include "load.h"

static uint64_t after(uint64_t from, double seconds) { return from + (uint64_t)(seconds * 1e9); }

static uint64_t next_random(uint64_t below) {
    load.random ^= load.random << 13;
    load.random ^= load.random >> 7;
    load.random ^= load.random << 17;
    return load.random % below;
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

static void probe_marked(struct conn *c, uint64_t born_ns) {
    if (!load.measuring || !c->request->rate) return;
    sample_add(c == probe() ? &load.last_byte : &load.direct_last_byte,
               born_ns > c->last_send_ns ? born_ns - c->last_send_ns : 0);
}

static void probe_finished(struct conn *c, bool ok) {
    if (load.closed_ns) return;
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

/* What a paced request may send by now; when there will be more, 0: not by time. */
static uint64_t probe_send_due(struct conn *c) {
    bool paced = c->request && c->request->rate && c->started_ns && c->sent < c->request->len;
    return paced ? conn_send(c) : 0;
}

/* Over when the time is, but not without an answer from someone slow, for whom there is the timeout. */
static uint64_t probe_tick(uint64_t now) {
    uint64_t end = after(load.begun_ns, load.ok ? load.warmup_s + load.seconds : load.timeout_s);
    if (now >= end) window_close();
    uint64_t proxied = probe_send_due(probe()), direct = probe_send_due(probe() + 1);
    uint64_t due = proxied && direct ? (proxied < direct ? proxied : direct) : proxied | direct;
    return due && due < end ? due : end;
}

/* ---- streams ---- */

static bool ends_with_done(const struct conn *c) { return memmem(c->tail, sizeof c->tail, "[DONE]", 6); }

static bool stream_complete(const struct conn *c) { return c->events == load.chunks && ends_with_done(c); }

static void stream_marked(struct conn *c, uint64_t born_ns) {
    uint64_t now = now_ns();
    load.events++;
    sample_add(&load.delay, now > born_ns ? now - born_ns : 0);
    if (c->event_ns) sample_add(&load.gap, now - c->event_ns);
    else sample_add(&load.first, now - c->started_ns);
    c->event_ns = now;
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

static void hold_marked(struct conn *c, uint64_t born_ns) {
    if (c >= probe()) return;
    stream_marked(c, born_ns);
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
    load.complete += ok && ends_with_done(c);
    if (load.finished_streams == load.connections && (load.closed_ns || !holding())) window_close();
    else if (load.open_streams + load.finished_streams == load.connections && !holding()) hold_settled();
}

static bool hold_lingers(void) {
    if (load.drain_s <= 0 || !load.open_streams) return false;
    printf("measured\n");
    fflush(stdout);
    return true;
}

static uint64_t hold_tick(uint64_t now) {
    if (holding() && !load.closed_ns) return probe_tick(now);
    uint64_t end = load.closed_ns ? after(load.closed_ns, load.drain_s) : after(load.begun_ns, load.timeout_s);
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

const struct mode modes[] = {
    {"rps", start_all, rps_finished, NULL, rps_tick, NULL},
    {"latency", probe_start, probe_finished, probe_marked, probe_tick, NULL},
    {"streams", streams_start, streams_finished, stream_marked, streams_tick, NULL},
    {"hold", hold_start, hold_finished, hold_marked, hold_tick, hold_lingers},
    {"churn", churn_start, churn_finished, stream_marked, churn_tick, NULL},
};
const size_t mode_count = sizeof modes / sizeof *modes;
