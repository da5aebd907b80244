// rgen: a load generator for Redis-protocol servers that costs the machine less per request than the servers do.
//
// All requests are rendered once, as one large array of equally long requests with random keys. A batch of P requests
// is a slice of that array at a random place, so a batch costs the generator one write, one read and the counting of
// replies. One thread, any number of connections over TCP or a Unix socket.
//
// Closed loop (the default): each connection sends its next batch when the last one is answered.
// Fixed rate (-R): batches are due at fixed times whatever the server does, and a latency counts from the time a batch
// was due, so that a server that stalls cannot hide the requests that would have come meanwhile.
//
// Prints one JSON object: operations, seconds, rate, latency percentiles in microseconds, CPU seconds of its own.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { LONGEST_US = 1000000, EVENTS = 1024, KEYS_OF_MGET = 10 };

static const char *host = "127.0.0.1", *operation = "set", *key_name = "key";
static int port = 6379, connections = 50, pipeline = 1, value_len = 64, ttl = 0, in_order = 0;
static long keyspace = 100000, most_operations = 0;
static double seconds = 2, warm_up = 0.2, rate = 0;

static char *requests;
static size_t request_len;
static long request_count;
static uint64_t random_state = 0x9E3779B97F4A7C15ull;

static inline uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// ---- Requests ----

static char *bulk(char *out, const char *text, size_t len) {
    out += sprintf(out, "$%zu\r\n", len);
    memcpy(out, text, len);
    memcpy(out + len, "\r\n", 2);
    return out + len + 2;
}

static char *word(char *out, const char *text) { return bulk(out, text, strlen(text)); }

static char *key_of(char *out, const char *prefix, long number) {
    char key[64];
    size_t len = sprintf(key, "%s:%012ld", prefix, number);
    return bulk(out, key, len);
}

static size_t render(char *out, long number) {
    static char *value;
    char *p = out, text[32];
    if (!value) {
        value = malloc(value_len + 1);
        for (int i = 0; i < value_len; i++) value[i] = 'a' + (i * 7) % 26;
    }
    if (!strcmp(operation, "setwait")) {
        // A write, and its wait for a replica: one operation of two replies.
        p = bulk(key_of(word(p + sprintf(p, "*3\r\n"), "SET"), key_name, number), value, value_len);
        p = word(word(word(p + sprintf(p, "*3\r\n"), "WAIT"), "1"), "0");
    } else if (!strcmp(operation, "set")) {
        p += sprintf(p, ttl ? "*5\r\n" : "*3\r\n");
        p = bulk(key_of(word(p, "SET"), key_name, number), value, value_len);
        if (ttl) {
            sprintf(text, "%d", ttl);
            p = word(word(p, "EX"), text);
        }
    } else if (!strcmp(operation, "get")) {
        p = key_of(word(p + sprintf(p, "*2\r\n"), "GET"), key_name, number);
    } else if (!strcmp(operation, "incr")) {
        p = key_of(word(p + sprintf(p, "*2\r\n"), "INCR"), "ctr", number);
    } else if (!strcmp(operation, "lpush")) {
        p = bulk(word(word(p + sprintf(p, "*3\r\n"), "LPUSH"), "mylist"), value, value_len);
    } else if (!strcmp(operation, "hset")) {
        p = key_of(word(word(p + sprintf(p, "*4\r\n"), "HSET"), "myhash"), key_name, number);
        p = bulk(p, value, value_len);
    } else if (!strcmp(operation, "zadd")) {
        sprintf(text, "%012llu", (unsigned long long)(next_random() % 1000000000));
        p = word(word(word(p + sprintf(p, "*4\r\n"), "ZADD"), "myzset"), text);
        p = key_of(p, key_name, number);
    } else if (!strcmp(operation, "ping")) {
        p = word(p + sprintf(p, "*1\r\n"), "PING");
    } else if (!strcmp(operation, "mget")) {
        p = word(p + sprintf(p, "*%d\r\n", KEYS_OF_MGET + 1), "MGET");
        for (int i = 0; i < KEYS_OF_MGET; i++) p = key_of(p, "key", (long)(next_random() % keyspace));
    } else {
        fprintf(stderr, "unknown operation %s\n", operation);
        exit(2);
    }
    return p - out;
}

static void render_all(void) {
    char *probe = malloc(1024 + (size_t)(value_len + 64) * 2 + 64 * KEYS_OF_MGET);
    request_len = render(probe, 0);
    request_count = keyspace;
    // Random requests need not be there for every key, or the array would fall out of every cache.
    if (!in_order && request_count * request_len > 32u << 20) request_count = (32u << 20) / request_len;
    if (request_count < pipeline * 4) request_count = pipeline * 4;
    requests = malloc(request_len * request_count + 1);
    for (long i = 0; i < request_count; i++) {
        long number = in_order ? i : (long)(next_random() % keyspace);
        if (render(requests + request_len * i, number) != request_len) {
            fprintf(stderr, "requests differ in length\n");
            exit(2);
        }
    }
    free(probe);
}

// ---- Connections and replies ----

struct connection {
    int fd, waiting;   // Replies still to come.
    int in_array, line_len, armed;
    size_t skip;       // Bytes left of a bulk string that is being passed over.
    long elements;     // Elements left of an array.
    char line[64];     // A line that has not ended yet.
    const char *unsent;
    size_t unsent_len;
    double due;        // When the batch under way was sent, or should have been.
};

static long errors, misses, replied;
static char first_error[80];
static int poller;

static int count_replies(struct connection *c, const char *bytes, size_t len) {
    int done = 0;
    size_t at = 0;
    while (at < len) {
        if (c->skip) {
            size_t part = len - at < c->skip ? len - at : c->skip;
            c->skip -= part;
            at += part;
            if (c->skip) break;
        } else {
            const char *end = memchr(bytes + at, '\n', len - at), *line = bytes + at;
            size_t line_len = end ? (size_t)(end + 1 - line) : len - at;
            if (!end || c->line_len) {
                size_t part = line_len < sizeof c->line - c->line_len ? line_len : sizeof c->line - c->line_len;
                memcpy(c->line + c->line_len, line, part);
                c->line_len += part;
                if (!end) break;
                line = c->line;
                c->line_len = 0;
            }
            at += line_len;
            if (line[0] == '$' && line[1] != '-') {
                c->skip = strtol(line + 1, 0, 10) + 2;
                continue;
            }
            if (line[0] == '*') {
                c->elements = strtol(line + 1, 0, 10);
                c->in_array = c->elements > 0;
                done += c->elements <= 0;
                continue;
            }
            if (line[0] == '$') misses++;
            if (line[0] == '-' && !errors++) memcpy(first_error, line, line_len < 79 ? line_len : 79);
        }
        if (!c->in_array) {
            done++;
        } else if (--c->elements == 0) {
            c->in_array = 0;
            done++;
        }
    }
    return done;
}

static void watch(struct connection *c, int writing) {
    struct epoll_event event = {EPOLLIN | (writing ? EPOLLOUT : 0), {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &event);
    c->armed = writing;
}

static void send_rest(struct connection *c) {
    while (c->unsent_len) {
        ssize_t sent = write(c->fd, c->unsent, c->unsent_len);
        if (sent < 0 && errno == EAGAIN) {
            if (!c->armed) watch(c, 1);
            return;
        }
        if (sent < 0) {
            perror("write");
            exit(1);
        }
        c->unsent += sent;
        c->unsent_len -= sent;
    }
    if (c->armed) watch(c, 0);
}

static int replies_each(void) { return strcmp(operation, "setwait") ? 1 : 2; }

static void send_batch(struct connection *c, double due) {
    static long place;
    long first = in_order ? place : (long)(next_random() % (request_count - pipeline + 1));
    if (in_order) place = (place + pipeline) % (request_count - pipeline + 1);
    c->unsent = requests + (size_t)first * request_len;
    c->unsent_len = (size_t)pipeline * request_len;
    c->waiting = pipeline * replies_each();
    c->due = due;
    send_rest(c);
}

static void open_connection(struct connection *c) {
    int unix_socket = host[0] == '/', one = 1, buffer = 1 << 20;
    struct sockaddr_in inet = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct sockaddr_un local = {.sun_family = AF_UNIX};
    inet_pton(AF_INET, host, &inet.sin_addr);
    strncpy(local.sun_path, host, sizeof local.sun_path - 1);
    c->fd = socket(unix_socket ? AF_UNIX : AF_INET, SOCK_STREAM, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    if (unix_socket ? connect(c->fd, (void *)&local, sizeof local) : connect(c->fd, (void *)&inet, sizeof inet)) {
        perror("connect");
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {EPOLLIN, {.ptr = c}};
    epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &event);
}

// ---- The run ----

static uint32_t latencies[LONGEST_US + 1];
static struct rusage cost_before;
static long operations, operations_before;
static double start;

static void note_latency(double from, double to) {
    long us = (to - from) * 1e6;
    latencies[us < 0 ? 0 : us > LONGEST_US ? LONGEST_US : us]++;
}

static void begin_measuring(double t) {
    start = t;
    operations_before = operations;
    memset(latencies, 0, sizeof latencies);
    getrusage(RUSAGE_SELF, &cost_before);
}

static double used(struct timeval a, struct timeval b) {
    return (b.tv_sec - a.tv_sec) + (b.tv_usec - a.tv_usec) / 1e6;
}

static void report(double end) {
    struct rusage cost;
    getrusage(RUSAGE_SELF, &cost);
    long count = 0, passed = 0, highest = 0, values[3] = {0};
    double parts[3] = {.5, .99, .999};
    for (int i = 0; i <= LONGEST_US; i++) {
        count += latencies[i];
        if (latencies[i]) highest = i;
    }
    for (int i = 0, next = 0; i <= LONGEST_US && next < 3; i++)
        for (passed += latencies[i]; next < 3 && passed >= parts[next] * count; next++) values[next] = i;
    long measured = operations - operations_before;
    double elapsed = end - start;
    printf("{\"ops\":%ld,\"total_ops\":%ld,\"secs\":%.4f,\"rps\":%.0f,\"p50_us\":%ld,\"p99_us\":%ld,\"p999_us\":%ld,"
           "\"max_us\":%ld,\"client_cpu\":%.4f,\"errors\":%ld,\"misses\":%ld}\n",
           measured, operations, elapsed, measured / elapsed, values[0], values[1], values[2], highest,
           used(cost_before.ru_utime, cost.ru_utime) + used(cost_before.ru_stime, cost.ru_stime), errors, misses);
    if (errors) fprintf(stderr, "first error: %s\n", first_error);
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "h:p:c:P:d:r:t:w:T:n:x:R:k:s")) != -1) switch (option) {
        case 'h': host = optarg; break;
        case 'p': port = atoi(optarg); break;
        case 'c': connections = atoi(optarg); break;
        case 'P': pipeline = atoi(optarg); break;
        case 'd': value_len = atoi(optarg); break;
        case 'r': keyspace = atol(optarg); break;
        case 't': seconds = atof(optarg); break;
        case 'w': warm_up = atof(optarg); break;
        case 'T': operation = optarg; break;
        case 'n': most_operations = atol(optarg); break;
        case 'x': ttl = atoi(optarg); break;
        case 'R': rate = atof(optarg); break;
        case 'k': key_name = optarg; break;
        case 's': in_order = 1; break;
        default: return 2;
        }
    render_all();
    prctl(PR_SET_TIMERSLACK, 1);
    poller = epoll_create1(0);
    struct connection *all = calloc(connections, sizeof *all);
    struct connection **idle = calloc(connections, sizeof *idle);
    for (int i = 0; i < connections; i++) open_connection(&all[i]);
    static char buffer[262144];
    static struct epoll_event events[EVENTS];
    double t = now(), begin = t, end = t + warm_up + seconds, interval = rate > 0 ? pipeline / rate : 0, due = t;
    int measuring = warm_up <= 0;
    long under_way = 0, idle_count = 0;
    begin_measuring(t);
    for (int i = 0; i < connections; i++) {
        if (rate > 0) {
            idle[idle_count++] = &all[i];
        } else {
            send_batch(&all[i], t);
            under_way++;
        }
    }
    while (under_way || rate > 0) {
        // At a fixed rate until the next batch is due: a generator that spins takes a core from those it measures.
        double patience = rate > 0 && idle_count ? due - now() : 1;
        struct timespec nap = {patience >= 1, patience > 0 && patience < 1 ? patience * 1e9 : 0};
        int count = epoll_pwait2(poller, events, EVENTS, &nap, NULL);
        t = now();
        if (count == 0 && rate <= 0 && t > end + 5) {
            fprintf(stderr, "stalled\n");
            break;
        }
        if (!measuring && t >= begin + warm_up) {
            measuring = 1;
            begin_measuring(t);
        }
        if (!most_operations && t >= end) break;
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT) send_rest(c);
            if (!(events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) continue;
            ssize_t got = read(c->fd, buffer, sizeof buffer);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                fprintf(stderr, "closed by the server after %ld operations: %s\n", operations,
                        got < 0 ? strerror(errno) : "end of stream");
                return 1;
            }
            int done = count_replies(c, buffer, got);
            c->waiting -= done;
            replied += done;
            operations = replied / replies_each();
            if (c->waiting > 0) continue;
            note_latency(c->due, t);
            if (rate > 0) {
                idle[idle_count++] = c;
            } else if (most_operations && operations + under_way * pipeline > most_operations) {
                under_way--;
            } else {
                send_batch(c, t);
            }
        }
        while (rate > 0 && due <= t && idle_count) {
            send_batch(idle[--idle_count], due);
            due += interval;
        }
    }
    report(now());
    return 0;
}
