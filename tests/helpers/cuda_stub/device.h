/* What the driver's stub has for a device: memory, and streams that run when somebody waits. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NO_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500,
       NOT_READY = 600 };
enum { CAPTURE_UNSUPPORTED = 900, CAPTURE_INVALIDATED = 901, WRONG_THREAD = 908 };
enum { DEVICE, PINNED };
enum { COPY, MODEL, WAIT, FREE, RECORD };
enum { MOST_CONTEXTS = 4096, MOST_OWNED = 8, PAGE = 4096 };

typedef struct region {
    char *start;
    size_t bytes;
    int kind, live;
    struct region *next;
} region;

typedef struct operation {
    int kind;
    char *target, *source;
    size_t bytes;
    int context, images, channels, pixels, item_bytes, classes; /* of MODEL */
    long turn;                                                  /* among its context's */
    struct stream *awaited;                                     /* of WAIT: until it has done so many */
    long position;
    struct event *recorded;                                     /* of RECORD, and which of its records */
    long record;
    long given_ns, takes_ns;                                    /* by the clock of the host; of the device */
    struct operation *next;
} operation;

typedef struct owned { /* what CUDA calls a user object */
    void *given;
    void (*destroy)(void *);
    unsigned references;
    struct owned *next; /* of those to destroy */
} owned;

typedef struct graph {
    operation *first, *last;
    owned *owns[MOST_OWNED];
} graph;

typedef struct stream {
    operation *first, *last;
    long queued, done;
    graph *capture;
    int spoiled, live;
    pthread_t capturer;
    struct stream *next;
} stream;

typedef struct event {
    stream *recorded;
    long position;
    int is_timed, is_destroyed;
    long records, pending, at_ns;
} event;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static region *regions;
static stream legacy = {.live = 1}, *streams;
static __thread stream own = {.live = 1};
static __thread void *current;
static char context, pool; /* whose addresses are the handles */
static struct { long queued, done, live; } contexts[MOST_CONTEXTS];
static long used[2], limits[2] = {1L << 40, 1L << 40}, opened;
static owned *dying;
static char fault[200];

/* Two clocks that nothing but the following moves: calls cost the host, and what it gave the device, which
   begins when it is given and what it was given before has ended. Waiting brings the host up to the device. */
static long host_ns, device_ns;
static struct { long launch, copy, model; } costs_ns, takes_ns;

/* What stub_count tells by name. */
static long live[2], live_streams, live_events, live_graphs, live_executables, live_contexts;
static long graph_launches, captures, copies, executions;

#define EXPORT __attribute__((visibility("default")))
#define LOCKED __attribute__((cleanup(unlock), unused)) int locked = pthread_mutex_lock(&mutex)
#define REQUIRE(condition, error) do { if (!(condition)) return error; } while (0)
#define NEED_CONTEXT REQUIRE(current, NO_CONTEXT)

EXPORT long stub_memory_pools = 1;

static void unlock(int *locked) { (void)locked; pthread_mutex_unlock(&mutex); }

static void complain(const char *problem, long number) {
    if (!*fault) snprintf(fault, sizeof fault, problem, number);
}

/* ---- memory ---- */

static region *find(const void *address) {
    for (region *each = regions; each; each = each->next)
        if ((char *)address >= each->start && (char *)address < each->start + each->bytes) return each;
    return 0;
}

static int reaches(const void *address, size_t bytes, int only_device) {
    region *found = find(address);
    if (!found) return !only_device; /* the host's own */
    return found->live && (!only_device || found->kind == DEVICE)
        && (char *)address + bytes <= found->start + found->bytes;
}

static int capturing_here(void) { /* calls that a capture forbids to its own thread spoil it */
    int found = 0;
    for (stream *each = streams; each; each = each->next)
        if (each->capture && pthread_equal(each->capturer, pthread_self())) found = each->spoiled = 1;
    return found;
}

static int allocate(void **address, size_t bytes, int kind) {
    NEED_CONTEXT;
    LOCKED;
    REQUIRE(!capturing_here(), CAPTURE_UNSUPPORTED);
    REQUIRE(bytes, INVALID_VALUE);
    REQUIRE(used[kind] + (long)bytes <= limits[kind], NO_MEMORY);
    size_t whole = (bytes + PAGE - 1) / PAGE * PAGE;
    region *made = __builtin_calloc(1, sizeof *made);
    char *start = mmap(0, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *made = (region){.start = start, .bytes = bytes, .kind = kind, .live = 1, .next = regions};
    memset(start, 0xAB, bytes); /* new memory holds anything */
    regions = made;
    live[kind]++, used[kind] += bytes;
    *address = start;
    return OK;
}

static int release(void *address, int kind) { /* whoever touches it later crashes: it is mapped away */
    region *found = find(address);
    if (!found || !found->live || found->kind != kind || found->start != address) {
        complain("memory was freed that is not there", 0);
        return INVALID_VALUE;
    }
    found->live = 0;
    live[kind]--, used[kind] -= found->bytes;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    mmap(found->start, found->bytes, PROT_NONE, flags, -1, 0);
    return OK;
}

/* ---- streams ---- */

static stream *stream_of(void *handle) {
    if (handle == 0 || handle == (void *)1) return current ? &legacy : 0;
    if (handle == (void *)2) return current ? &own : 0;
    for (stream *each = streams; each; each = each->next)
        if (each == handle) return each->live ? each : 0;
    return 0;
}

static int bad_stream(void *handle) { return (uintptr_t)handle <= 2 ? NO_CONTEXT : INVALID_HANDLE; }

static void compute(const operation *o) {
    /* The mean of each channel, times (7 class + 3 channel) % 5 - 2. */
    size_t read = (size_t)o->images * o->channels * o->pixels * o->item_bytes;
    size_t written = (size_t)o->images * o->classes * sizeof(float);
    if (!reaches(o->source, read, 1) || !reaches(o->target, written, 1)) {
        complain("images of a batch of %ld, or their answers, are not in live device memory", o->images);
        return;
    }
    for (int image = 0; image < o->images; image++)
        for (int class = 0; class < o->classes; class++) {
            double sum = 0;
            for (int channel = 0; channel < o->channels; channel++) {
                double total = 0;
                for (int pixel = 0; pixel < o->pixels; pixel++) {
                    /* uint8 images have their channels last */
                    long at = o->item_bytes == 1 ? ((long)image * o->pixels + pixel) * o->channels + channel
                                                 : ((long)image * o->channels + channel) * o->pixels + pixel;
                    total += o->item_bytes == 1 ? ((uint8_t *)o->source)[at] : ((float *)o->source)[at];
                }
                sum += total / o->pixels * ((7 * class + 3 * channel) % 5 - 2);
            }
            ((float *)o->target)[image * o->classes + class] = sum;
        }
    executions++;
}

static void run_until(stream *s, long position);

static long later(long first, long second) { return first > second ? first : second; }

static void keep_time(event *e, long record) {
    if (record == e->records) e->at_ns = device_ns; /* a later record takes its place */
    if (!--e->pending && e->is_destroyed) __builtin_free(e);
}

static void perform(const operation *o) {
    device_ns = later(device_ns, o->given_ns) + o->takes_ns;
    if (o->kind == RECORD) keep_time(o->recorded, o->record);
    if (o->kind == WAIT) run_until(o->awaited, o->position);
    if (o->kind == FREE) release(o->target, DEVICE);
    if (o->kind == COPY) {
        if (!reaches(o->target, o->bytes, 0) || !reaches(o->source, o->bytes, 0))
            complain("%ld bytes were copied from or to memory that is not there", o->bytes);
        else
            memcpy(o->target, o->source, o->bytes);
    }
    if (o->kind == MODEL) {
        if (!contexts[o->context].live) complain("execution context %ld ran after its end", o->context);
        if (o->turn != ++contexts[o->context].done)
            complain("work of execution context %ld ran in another order than it was given", o->context);
        if (o->images) compute(o);
    }
}

static void run_until(stream *s, long position) {
    while (s->done < position && s->first) {
        operation *o = s->first;
        s->first = o->next, s->done++;
        if (!s->first) s->last = 0;
        perform(o);
        __builtin_free(o);
    }
}

static void append(operation **first, operation **last, const operation *o) {
    operation *made = __builtin_malloc(sizeof *made);
    *made = *o, made->next = 0;
    if (*last) (*last)->next = made; else *first = made;
    *last = made;
}

static int queue(stream *s, const operation *given) {
    operation o = *given;
    if (s->capture) {
        append(&s->capture->first, &s->capture->last, &o);
        return OK;
    }
    if (o.kind == MODEL) o.turn = ++contexts[o.context].queued;
    o.given_ns = host_ns;
    append(&s->first, &s->last, &o);
    s->queued++;
    return OK;
}

static int synchronize(stream *s) {
    if (s->capture) s->spoiled = 1;
    REQUIRE(!s->capture, CAPTURE_UNSUPPORTED);
    run_until(s, s->queued);
    host_ns = later(host_ns, device_ns);
    return OK;
}
