// replay: how often a cache has what is asked for.
//
// Asks for keys as a workload names them, stores what is missing (as an application in front of a database does), and
// counts. The same seed asks for the same keys in the same order, so that any two servers get equal chances. Requests
// go in small batches: GETs, then the SETs of those that missed, each key once.
//
// Workloads: zipf (popularity by rank, for ever the same), scan (zipf with passes over keys that never come again),
// shift (zipf whose popular keys change as time goes by), once (zipf, and every third request a key of its own), and
// loop (a cycle somewhat longer than the cache, with zipf beside it).
// Prints one JSON object: requests and hits after the first part, which only fills the cache.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <math.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BATCH = 64, VALUE = 64 };

static const char *workload = "zipf";
static int port = 6379;
static uint64_t keys = 400000, requests = 1500000, warm_up = 500000, state = 42;
static double skew = 0.9;
static double *reach; // reach[i]: the chance of a rank up to i.

static uint64_t next_random(void) {
    state += 0x9E3779B97F4A7C15ull;
    uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void prepare_zipf(void) {
    double sum = 0;
    reach = malloc(keys * sizeof *reach);
    for (uint64_t i = 0; i < keys; i++) reach[i] = sum += pow(i + 1, -skew);
    for (uint64_t i = 0; i < keys; i++) reach[i] /= sum;
}

static uint64_t zipf(void) {
    double chance = (next_random() >> 11) * 0x1.0p-53;
    uint64_t low = 0, high = keys - 1;
    while (low < high) {
        uint64_t middle = (low + high) / 2;
        if (reach[middle] < chance) low = middle + 1;
        else high = middle;
    }
    return low;
}

// The key that request number `turn` asks for.
static uint64_t choose(uint64_t turn) {
    static uint64_t fresh = 1ull << 40;
    if (!strcmp(workload, "scan")) {
        // Of every 100,000 requests the last 40,000 are a pass over keys that nobody asks for again.
        if (turn % 100000 >= 60000) return fresh++;
    } else if (!strcmp(workload, "shift")) {
        // Every 30,000 requests a twentieth of the ranks belongs to other keys.
        uint64_t rank = zipf(), age = turn / 30000 + rank % 20;
        return rank + keys * (age / 20);
    } else if (!strcmp(workload, "once")) {
        if (next_random() % 3 == 0) return fresh++;
    } else if (!strcmp(workload, "loop")) {
        if (turn % 2) return (1ull << 41) + turn / 2 % (keys / 4);
    }
    return zipf();
}

static int fd;
static char out[BATCH * 256], in[1 << 16];
static size_t in_at, in_len;

static void send_all(const char *bytes, size_t len) {
    while (len) {
        ssize_t sent = write(fd, bytes, len);
        if (sent <= 0) {
            perror("write");
            exit(1);
        }
        bytes += sent;
        len -= sent;
    }
}

static int next_byte(void) {
    if (in_at == in_len) {
        ssize_t got = read(fd, in, sizeof in);
        if (got <= 0) {
            fprintf(stderr, "closed by the server\n");
            exit(1);
        }
        in_at = 0;
        in_len = got;
    }
    return (unsigned char)in[in_at++];
}

// Read one reply; whether it was a value (or OK).
static int reply(void) {
    char line[128];
    int len = 0, byte;
    while ((byte = next_byte()) != '\n')
        if (len < 127) line[len++] = byte;
    line[len] = 0;
    if (line[0] == '-') {
        fprintf(stderr, "%s\n", line);
        exit(1);
    }
    if (line[0] == '_' || (line[0] == '$' && line[1] == '-')) return 0;
    if (line[0] == '$')
        for (long left = atol(line + 1) + 2; left > 0; left--) next_byte();
    return 1;
}

int main(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "p:W:k:n:w:z:S:")) != -1) switch (option) {
        case 'p': port = atoi(optarg); break;
        case 'W': workload = optarg; break;
        case 'k': keys = strtoull(optarg, 0, 10); break;
        case 'n': requests = strtoull(optarg, 0, 10); break;
        case 'w': warm_up = strtoull(optarg, 0, 10); break;
        case 'z': skew = atof(optarg); break;
        case 'S': state = strtoull(optarg, 0, 10); break;
        default: return 2;
        }
    prepare_zipf();
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(0x7F000001)};
    int one = 1;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(fd, (void *)&address, sizeof address)) {
        perror("connect");
        return 1;
    }
    char value[VALUE + 1];
    memset(value, 'v', VALUE);
    value[VALUE] = 0;
    uint64_t hits = 0, counted = 0, turn = 0;
    while (turn < requests) {
        uint64_t batch[BATCH], missed[BATCH];
        int count = 0, missing = 0;
        char *p = out;
        for (; count < BATCH && turn + count < requests; count++) {
            // Keys are scattered over the key space, so that no rank is favoured by where its key lies.
            batch[count] = choose(turn + count) * 0x9E3779B97F4A7C15ull;
            p += sprintf(p, "*2\r\n$3\r\nGET\r\n$18\r\nk:%016llx\r\n", (unsigned long long)batch[count]);
        }
        send_all(out, p - out);
        for (int i = 0; i < count; i++) {
            int hit = reply();
            if (turn + i >= warm_up) {
                counted++;
                hits += hit;
            }
            int known = hit;
            for (int j = 0; j < missing && !known; j++) known = missed[j] == batch[i];
            if (!known) missed[missing++] = batch[i];
        }
        p = out;
        for (int i = 0; i < missing; i++)
            p += sprintf(p, "*3\r\n$3\r\nSET\r\n$18\r\nk:%016llx\r\n$%d\r\n%s\r\n", (unsigned long long)missed[i], VALUE, value);
        send_all(out, p - out);
        for (int i = 0; i < missing; i++) reply();
        turn += count;
    }
    printf("{\"requests\":%llu,\"hits\":%llu}\n", (unsigned long long)counted, (unsigned long long)hits);
    return 0;
}
