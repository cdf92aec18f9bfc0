/* Load generator of the bench: writes prepared request frames, reads answer frames, keeps a histogram of latencies.
 *
 *   lg load PORT FRAMES CONNECTIONS WINDOW RATE WARMUP SECONDS PID OFFSET_LIMIT FIRST_UNIQUE REQUESTS_EACH
 *   lg echo PORT                                   (an echo server: the ceiling that this generator can reach)
 *
 * RATE 0 is a closed loop: each connection keeps WINDOW requests under way. RATE > 0 is an open loop: that many
 * requests a second over all connections, and the latency of each counts from the moment it was due, so that a stall
 * is charged to everything that waited for it.
 *
 * FRAMES holds, little-endian: u32 count, then for each frame u32 length, i32 opaque_at, i32 unique_at,
 * i32 offset_at and its bytes. A place of -1 is absent. At opaque_at stand 10 digits, at unique_at 8 hex digits, at
 * offset_at 10 digits; each request gets fresh ones. Frames without opaque_at are echoed: any answer is right.
 * With REQUESTS_EACH each connection ends after so many requests, and the run when all are answered.
 * The offset of a connection grows by 32 with each request and starts again at OFFSET_LIMIT.
 *
 * One line of JSON is the result. `errors` counts answers whose response code is not 0, `first_error` is the first.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { PEEK = 32, PENDING = 1 << 14, SUB = 64, BUCKETS = 64 * SUB, READ_SIZE = 1 << 20, UNITS = 32 };

typedef struct { uint32_t length; int32_t opaque_at, unique_at, offset_at; uint8_t *bytes; } Frame;

typedef struct {
    int fd;
    uint32_t turn; /* index of the frame that is sent next */
    uint64_t offset;
    uint64_t due[PENDING]; /* when the requests under way were due, oldest first */
    uint32_t asked, answered;
    uint8_t *out;
    size_t out_end, out_at, out_room;
    uint8_t head[4]; /* the length of the answer being read */
    uint32_t head_got;
    uint64_t left;   /* bytes of that answer still to come */
    uint8_t peek[PEEK];
    uint32_t peek_got;
} Connection;

static Frame *frames;
static uint32_t frame_count, connection_count, next_opaque = 1000000000u;
static uint64_t next_unique, offset_limit;
static uint64_t latencies[BUCKETS], answers, bytes_read, errors;
static int first_error;

static void die(const char *what) { perror(what); exit(2); }

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Buckets are exact below 64 ns, then 64 for each power of two: an error below 1.6 %. */
static unsigned bucket_of(uint64_t ns) {
    if (ns < SUB) return (unsigned)ns;
    unsigned power = 63u - (unsigned)__builtin_clzll(ns) - 6u;
    return (power + 1) * SUB + (unsigned)((ns >> power) - SUB);
}

static double bucket_us(unsigned bucket) {
    if (bucket < SUB) return bucket / 1e3;
    unsigned power = bucket / SUB - 1;
    return (double)((uint64_t)(bucket % SUB + SUB) << power) / 1e3;
}

static double percentile_us(double part) {
    uint64_t wanted = (uint64_t)((double)answers * part), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++)
        if ((seen += latencies[i]) > wanted) return bucket_us(i);
    return 0;
}

static void write_digits(uint8_t *at, uint64_t value) {
    for (int i = 9; i >= 0; i--, value /= 10) at[i] = (uint8_t)('0' + value % 10);
}

static void write_hex(uint8_t *at, uint64_t value) {
    for (int i = 7; i >= 0; i--, value >>= 4) at[i] = (uint8_t) "0123456789ABCDEF"[value & 15];
}

static void ask(Connection *c, uint64_t due) {
    /* All connections together walk through all frames; with as few frames as connections each keeps its own. */
    const Frame *f = &frames[c->turn];
    c->turn = (c->turn + connection_count) % frame_count;
    if (c->out_end + f->length > c->out_room) {
        memmove(c->out, c->out + c->out_at, c->out_end - c->out_at);
        c->out_end -= c->out_at;
        c->out_at = 0;
        while (c->out_end + f->length > c->out_room) c->out = realloc(c->out, c->out_room *= 2);
    }
    uint8_t *to = c->out + c->out_end;
    memcpy(to, f->bytes, f->length);
    if (f->opaque_at >= 0) write_digits(to + f->opaque_at, next_opaque = next_opaque < 2000000000u ? next_opaque + 1 : 1000000000u);
    if (f->unique_at >= 0) write_hex(to + f->unique_at, next_unique++);
    if (f->offset_at >= 0) {
        write_digits(to + f->offset_at, c->offset);
        c->offset = c->offset + 2 * UNITS <= offset_limit ? c->offset + UNITS : 0;
    }
    c->out_end += f->length;
    c->due[c->asked++ % PENDING] = due;
}

static void send_out(Connection *c) {
    while (c->out_at < c->out_end) {
        ssize_t n = send(c->fd, c->out + c->out_at, c->out_end - c->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) return; /* the edge of writability calls again */
        if (n < 0) die("send");
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_end = 0;
}

/* The response code, from the first bytes behind the length: a JSON header begins with its code, a binary one is it. */
static int code_of(const Connection *c) {
    if (c->peek_got < 6) return -1;
    if (c->peek[0] == 1) return c->peek[4] << 8 | c->peek[5];
    const uint8_t *at = memmem(c->peek, c->peek_got, "\"code\":", 7);
    return at ? atoi((const char *)at + 7) : -1;
}

static void answer_done(Connection *c, uint64_t now) {
    uint64_t due = c->due[c->answered++ % PENDING];
    if (frames[0].opaque_at >= 0) {
        c->peek[c->peek_got < PEEK ? c->peek_got : PEEK - 1] = 0;
        int code = code_of(c);
        if (code != 0 && errors++ == 0) first_error = code;
    }
    latencies[bucket_of(now > due ? now - due : 0)]++;
    answers++;
    c->peek_got = 0;
}

/* Cut what was read into frames; return how many ended. */
static uint32_t take(Connection *c, const uint8_t *data, size_t size, uint64_t now) {
    uint32_t done = 0;
    for (size_t at = 0; at < size;) {
        if (c->head_got < 4) {
            c->head[c->head_got++] = data[at++];
            if (c->head_got == 4) c->left = ntohl(*(uint32_t *)c->head);
            continue;
        }
        size_t part = c->left < size - at ? (size_t)c->left : size - at;
        for (size_t i = 0; i < part && c->peek_got < PEEK - 1; i++) c->peek[c->peek_got++] = data[at + i];
        c->left -= part;
        at += part;
        if (c->left == 0) {
            c->head_got = 0;
            answer_done(c, now);
            done++;
        }
    }
    return done;
}

static uint32_t read_answers(Connection *c) {
    static uint8_t buffer[READ_SIZE];
    uint32_t done = 0;
    for (;;) {
        ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
        if (n < 0 && errno == EAGAIN) return done;
        if (n < 0) die("recv");
        if (n == 0) { fprintf(stderr, "the server closed a connection\n"); exit(3); }
        bytes_read += (uint64_t)n;
        done += take(c, buffer, (size_t)n, now_ns());
        if ((size_t)n < sizeof buffer) return done;
    }
}

static void load_frames(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fread(&frame_count, 4, 1, file) != 1) die(path);
    frames = calloc(frame_count, sizeof *frames);
    for (uint32_t i = 0; i < frame_count; i++) {
        if (fread(&frames[i], 4, 4, file) != 4) die(path);
        frames[i].bytes = malloc(frames[i].length);
        if (fread(frames[i].bytes, 1, frames[i].length, file) != frames[i].length) die(path);
    }
    fclose(file);
}

static Connection *connect_all(int port, uint32_t count, int epoll) {
    Connection *all = calloc(count, sizeof *all);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (uint32_t i = 0; i < count; i++) {
        Connection *c = &all[i];
        int yes = 1;
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        fcntl(c->fd, F_SETFL, O_NONBLOCK);
        c->turn = i % frame_count;
        c->out = malloc(c->out_room = 1 << 16);
        struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    }
    return all;
}

/* CPU seconds of all threads of a process, to the nanosecond. */
static double cpu_of(int pid) {
    char path[300];
    double total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = pid > 0 ? opendir(path) : NULL;
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        unsigned long long ns = 0;
        if (file && fscanf(file, "%llu", &ns) == 1) total += (double)ns / 1e9;
        if (file) fclose(file);
    }
    if (tasks) closedir(tasks);
    return total;
}

static double own_cpu(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* Sleep no longer than until then. A generator that span instead would take the time of a server on the same core. */
static void wake_at(int timer, uint64_t due) {
    struct itimerspec when = {.it_value = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static int load(char **arg) {
    int port = atoi(arg[0]), pid = atoi(arg[7]), epoll = epoll_create1(0);
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    uint32_t connections = (uint32_t)atoi(arg[2]), window = (uint32_t)atoi(arg[3]), turn = 0;
    double rate = atof(arg[4]), server_cpu = 0, generator_cpu = 0;
    uint64_t warm = (uint64_t)(atof(arg[5]) * 1e9), run = (uint64_t)(atof(arg[6]) * 1e9), each = strtoull(arg[10], 0, 10);
    connection_count = connections;
    offset_limit = strtoull(arg[8], 0, 10);
    next_unique = strtoull(arg[9], 0, 10);
    load_frames(arg[1]);
    Connection *all = connect_all(port, connections, epoll);
    uint64_t begin = now_ns(), start = 0, answered = 0;
    for (uint32_t i = 0; rate == 0 && i < connections; i++) {
        for (uint32_t k = 0; k < window && (!each || all[i].asked < each); k++) ask(&all[i], begin);
        send_out(&all[i]);
    }
    double due = (double)begin;
    struct epoll_event timer_event = {.events = EPOLLIN | EPOLLET, .data.ptr = NULL};
    epoll_ctl(epoll, EPOLL_CTL_ADD, timer, &timer_event);
    for (;;) {
        struct epoll_event events[256];
        if (rate > 0) wake_at(timer, (uint64_t)due);
        int ready = epoll_wait(epoll, events, 256, 100);
        uint64_t now = now_ns();
        if (!start && now >= begin + warm) {
            memset(latencies, 0, sizeof latencies);
            answers = bytes_read = errors = 0;
            server_cpu = cpu_of(pid);
            generator_cpu = own_cpu();
            start = now_ns();
        }
        if ((start && now >= start + run) || (each && answered >= each * connections)) break;
        for (int k = 0; rate > 0 && due <= (double)now && k < 4096; k++, due += 1e9 / rate) {
            Connection *c = &all[turn++ % connections];
            if (c->asked - c->answered >= PENDING) { fprintf(stderr, "the server fell behind the rate\n"); return 4; }
            ask(c, (uint64_t)due);
            send_out(c);
        }
        for (int i = 0; i < ready; i++) {
            Connection *c = events[i].data.ptr;
            if (!c) continue;
            uint32_t done = events[i].events & EPOLLIN ? read_answers(c) : 0;
            answered += done;
            uint64_t again = now_ns();
            for (; rate == 0 && done && (!each || c->asked < each); done--) ask(c, again);
            send_out(c);
        }
    }
    double seconds = (double)(now_ns() - (start ? start : begin)) / 1e9;
    printf("{\"rate\":%.1f,\"answers\":%lu,\"seconds\":%.4f,\"mb_per_second\":%.2f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"p999_us\":%.1f,\"server_cpu_us\":%.3f,\"server_load\":%.3f,\"generator_load\":%.3f,\"errors\":%lu,\"first_error\":%d}\n",
           (double)answers / seconds, answers, seconds, (double)bytes_read / seconds / 1e6, percentile_us(0.5),
           percentile_us(0.99), percentile_us(0.999), answers ? (cpu_of(pid) - server_cpu) * 1e6 / (double)answers : 0,
           (cpu_of(pid) - server_cpu) / seconds, (own_cpu() - generator_cpu) / seconds, errors, first_error);
    return 0;
}

static __attribute__((noreturn)) void echo(int port) {
    static uint8_t buffer[READ_SIZE];
    int listener = socket(AF_INET, SOCK_STREAM, 0), epoll = epoll_create1(0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024)) die("listen");
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                fd = accept(listener, NULL, NULL);
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                event = (struct epoll_event){.events = EPOLLIN, .data.fd = fd};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            ssize_t n = recv(fd, buffer, sizeof buffer, 0), at = 0;
            if (n <= 0) { close(fd); continue; }
            while (at < n) { /* blocking: the other side always reads */
                ssize_t sent = send(fd, buffer + at, (size_t)(n - at), MSG_NOSIGNAL);
                if (sent < 0) { close(fd); break; }
                at += sent;
            }
        }
    }
}

int main(int count, char **arg) {
    if (count == 13 && !strcmp(arg[1], "load")) return load(arg + 2);
    if (count == 3 && !strcmp(arg[1], "echo")) echo(atoi(arg[2]));
    fprintf(stderr, "usage: lg load PORT FRAMES CONNECTIONS WINDOW RATE WARMUP SECONDS PID OFFSET_LIMIT FIRST_UNIQUE "
                    "REQUESTS_EACH | lg echo PORT\n");
    return 1;
}
