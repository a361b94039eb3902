/* A CUDA driver without a GPU, for tests: its device memory is host memory.

   It is as late as a GPU may be: it runs the work in a stream only when somebody waits for it, so that a
   missing wait shows. It is as strict as the documentation allows: calls that need a current context fail
   without one, and what is forbidden during a capture fails and invalidates the capture. Faults that cannot
   be reported to a caller are kept for stub_fault. cuGetProcAddress finds only what is defined here. */
#include "device.h"

/* ---- the driver's API: devices and contexts ---- */

EXPORT int cuInit(unsigned flags) { (void)flags; return OK; }
EXPORT int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
EXPORT int cuDeviceGetCount(int *count) { *count = 1; return OK; }
EXPORT int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? 101 : OK; }
EXPORT int cuDeviceGetName(char *name, int size, int device) {
    (void)device;
    snprintf(name, size, "Stub");
    return OK;
}
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : attribute == 115 ? stub_memory_pools : 0;
    return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **made, int device) { (void)device; *made = &context; return OK; }
EXPORT int cuDevicePrimaryCtxRelease(int device) { (void)device; return OK; }
EXPORT int cuCtxSetCurrent(void *made) { current = made; return OK; }
EXPORT int cuCtxGetCurrent(void **found) { *found = current; return OK; }
EXPORT int cuCtxGetDevice(int *device) { NEED_CONTEXT; *device = 0; return OK; }
EXPORT int cuCtxSynchronize(void) {
    NEED_CONTEXT;
    LOCKED;
    int capturing = 0;
    for (stream *each = streams; each; each = each->next)
        if (each->capture) capturing = each->spoiled = 1;
    REQUIRE(!capturing, CAPTURE_UNSUPPORTED);
    for (stream *each = streams; each; each = each->next) run_until(each, each->queued);
    run_until(&legacy, legacy.queued);
    run_until(&own, own.queued);
    return OK;
}
EXPORT int cuGetErrorName(int error, const char **name) {
    *name = error == NO_MEMORY             ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == NO_CONTEXT            ? "CUDA_ERROR_INVALID_CONTEXT"
          : error == INVALID_HANDLE        ? "CUDA_ERROR_INVALID_HANDLE"
          : error == CAPTURE_UNSUPPORTED   ? "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"
          : error == CAPTURE_INVALIDATED   ? "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"
          : error == NOT_READY             ? "CUDA_ERROR_NOT_READY"
                                           : "CUDA_ERROR_OF_THE_STUB";
    return OK;
}
EXPORT int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

/* ---- memory ---- */

EXPORT int cuMemAlloc_v2(void **address, size_t bytes) { return allocate(address, bytes, DEVICE); }
EXPORT int cuMemAllocHost_v2(void **address, size_t bytes) { return allocate(address, bytes, PINNED); }
static int free_now(void *address, int kind) { /* waits for the device first, as NVIDIA's does */
    NEED_CONTEXT;
    LOCKED;
    REQUIRE(!capturing_here(), CAPTURE_UNSUPPORTED);
    for (stream *each = streams; each; each = each->next) run_until(each, each->queued);
    return release(address, kind);
}
EXPORT int cuMemFree_v2(void *address) { return free_now(address, DEVICE); }
EXPORT int cuMemFreeHost(void *address) { return free_now(address, PINNED); }
EXPORT int cuMemAllocFromPoolAsync(void **address, size_t bytes, void *from, void *handle) {
    (void)from;
    REQUIRE(stream_of(handle), bad_stream(handle));
    return allocate(address, bytes, DEVICE);
}
EXPORT int cuMemFreeAsync(void *address, void *handle) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    return queue(s, &(operation){.kind = FREE, .target = address});
}
EXPORT int cuDeviceGetMemPool(void **found, int device) { (void)device; *found = &pool; return OK; }
EXPORT int cuDeviceGetDefaultMemPool(void **found, int device) { return cuDeviceGetMemPool(found, device); }
EXPORT int cuMemPoolGetAttribute(void *of, int attribute, void *value) {
    (void)of, (void)attribute;
    *(uint64_t *)value = 0;
    return OK;
}
EXPORT int cuMemPoolSetAttribute(void *of, int attribute, void *value) {
    (void)of, (void)attribute, (void)value;
    return OK;
}
EXPORT int cuMemcpyAsync(void *target, void *source, size_t bytes, void *handle) {
    NEED_CONTEXT;
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    copies++, host_ns += costs_ns.copy;
    return queue(s, &(operation){
        .kind = COPY, .target = target, .source = source, .bytes = bytes, .takes_ns = takes_ns.copy});
}
EXPORT int cuPointerGetAttributes(unsigned count, int *attributes, void **values, void *address) {
    LOCKED;
    region *found = find(address);
    for (unsigned at = 0; at < count; at++) /* 2: type of memory; others: of device 0, and not managed */
        *(int *)values[at] = attributes[at] == 2 && found ? (found->kind == PINNED ? 1 : 2) : 0;
    return OK;
}
EXPORT int stub_ordinal; /* of all memory; there is one device, whatever a test calls it */
EXPORT int cuPointerGetAttribute(void *value, int attribute, void *address) {
    LOCKED;
    REQUIRE(attribute == 9 && find(address), INVALID_VALUE); /* 9: which device */
    *(int *)value = stub_ordinal;
    return OK;
}

/* ---- streams and events ---- */

EXPORT int cuStreamCreateWithPriority(void **made, unsigned flags, int priority) {
    (void)flags, (void)priority;
    NEED_CONTEXT;
    LOCKED;
    stream *s = __builtin_calloc(1, sizeof *s);
    s->live = 1, s->next = streams;
    *made = streams = s;
    live_streams++;
    return OK;
}
EXPORT int cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return OK; }
EXPORT int cuStreamGetPriority(void *handle, int *priority) { (void)handle; *priority = 0; return OK; }
EXPORT int cuStreamGetFlags(void *handle, unsigned *flags) { (void)handle; *flags = 1; return OK; }
EXPORT int cuStreamGetCtx(void *handle, void **found) { (void)handle; *found = &context; return OK; }
EXPORT int cuStreamGetDevice(void *handle, int *device) { (void)handle; *device = 0; return OK; }
EXPORT int cuStreamSynchronize(void *handle) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    return synchronize(s);
}
EXPORT int cuStreamDestroy_v2(void *handle) { /* what it was given is still run */
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s && s != &legacy && s != &own, INVALID_HANDLE);
    if (s->capture) complain("a stream was destroyed while it captured", 0);
    run_until(s, s->queued);
    s->live = 0;
    live_streams--;
    return OK;
}
EXPORT int cuEventCreate(event **made, unsigned flags) {
    NEED_CONTEXT;
    LOCKED;
    *made = __builtin_calloc(1, sizeof(event));
    (*made)->is_timed = !(flags & 2); /* CU_EVENT_DISABLE_TIMING */
    live_events++;
    return OK;
}
EXPORT int cuEventDestroy_v2(event *e) {
    LOCKED;
    if (e->pending) e->is_destroyed = 1; else __builtin_free(e);
    live_events--;
    return OK;
}
EXPORT int cuEventRecord(event *e, void *handle) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    REQUIRE(!s->capture, CAPTURE_UNSUPPORTED); /* the stub captures one stream only */
    queue(s, &(operation){.kind = RECORD, .recorded = e, .record = ++e->records});
    e->recorded = s, e->position = s->queued, e->pending++;
    return OK;
}
EXPORT int cuStreamWaitEvent(void *handle, event *e, unsigned flags) {
    (void)flags;
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    if (!e->recorded || e->recorded == s) return OK;
    return queue(s, &(operation){.kind = WAIT, .awaited = e->recorded, .position = e->position});
}
EXPORT int cuEventQuery(event *e) {
    LOCKED;
    return e->recorded && e->recorded->done < e->position ? NOT_READY : OK;
}
EXPORT int cuEventSynchronize(event *e) {
    LOCKED;
    if (!e->recorded) return OK;
    run_until(e->recorded, e->position);
    host_ns = later(host_ns, e->at_ns);
    return OK;
}
EXPORT int cuEventElapsedTime(float *ms, event *start, event *end) {
    LOCKED;
    REQUIRE(start->is_timed && end->is_timed && start->recorded && end->recorded, INVALID_HANDLE);
    REQUIRE(!start->pending && !end->pending, NOT_READY);
    *ms = (end->at_ns - start->at_ns) / 1e6;
    return OK;
}

/* ---- graphs ---- */

EXPORT int cuStreamBeginCapture_v2(void *handle, int mode) {
    (void)mode; /* thread-local whatever it says */
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s && s != &legacy && !s->capture, CAPTURE_UNSUPPORTED);
    s->capture = __builtin_calloc(1, sizeof(graph)); /* whoever asks cuStreamGetCaptureInfo owns it */
    s->capturer = pthread_self(), s->spoiled = 0;
    captures++, live_graphs++;
    return OK;
}
EXPORT int cuStreamEndCapture(void *handle, graph **made) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s && s->capture, INVALID_VALUE);
    REQUIRE(pthread_equal(s->capturer, pthread_self()), WRONG_THREAD);
    if (made) *made = s->spoiled ? 0 : s->capture;
    s->capture = 0;
    return s->spoiled ? CAPTURE_INVALIDATED : OK;
}
EXPORT int cuStreamIsCapturing(void *handle, int *status) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    *status = !s->capture ? 0 : s->spoiled ? 2 : 1;
    return OK;
}
EXPORT int cuStreamGetCaptureInfo_v3(
    void *handle, int *status, uint64_t *id, graph **found, void *nodes, void *edges, size_t *count) {
    (void)nodes, (void)edges;
    int error = cuStreamIsCapturing(handle, status);
    if (error == OK && *status && id) *id = 1;
    if (error == OK && *status && found) *found = stream_of(handle)->capture;
    if (count) *count = 0;
    return error;
}
static void let_go(owned *object) {
    if (object && !--object->references) object->next = dying, dying = object;
}
static int bury(void) { /* outside the lock: who destroys may wait for Python's own */
    owned *first;
    { LOCKED; first = dying, dying = 0; }
    for (owned *next; first; first = next) {
        next = first->next;
        first->destroy(first->given);
        __builtin_free(first);
    }
    return OK;
}
static int own_object(graph *g, owned *object) {
    for (int at = 0; at < MOST_OWNED; at++)
        if (!g->owns[at]) { g->owns[at] = object; return OK; }
    return NO_MEMORY;
}
EXPORT int cuUserObjectCreate(
    owned **made, void *given, void (*destroy)(void *), unsigned references, unsigned flags) {
    (void)flags;
    *made = __builtin_calloc(1, sizeof(owned));
    **made = (owned){.given = given, .destroy = destroy, .references = references};
    return OK;
}
EXPORT int cuUserObjectRelease(owned *object, unsigned count) {
    { LOCKED; while (count--) let_go(object); }
    return bury();
}
EXPORT int cuGraphRetainUserObject(graph *g, owned *object, unsigned count, unsigned flags) {
    LOCKED;
    if (flags != 1) object->references += count; /* 1: the caller's reference moves */
    return own_object(g, object);
}
EXPORT int cuGraphReleaseUserObject(graph *g, owned *object, unsigned count) {
    (void)count;
    {
        LOCKED;
        for (int at = 0; at < MOST_OWNED; at++)
            if (g->owns[at] == object) { g->owns[at] = 0; let_go(object); break; }
    }
    return bury();
}
EXPORT int cuGraphInstantiateWithParams(graph **made, graph *from, void *parameters) {
    LOCKED;
    *made = __builtin_calloc(1, sizeof(graph));
    for (operation *o = from->first; o; o = o->next) append(&(*made)->first, &(*made)->last, o);
    for (int at = 0; at < MOST_OWNED; at++)
        if (from->owns[at]) from->owns[at]->references++, own_object(*made, from->owns[at]);
    memset((char *)parameters + 24, 0, 4); /* result_out: success */
    live_executables++;
    return OK;
}
EXPORT int cuGraphLaunch(graph *g, void *handle) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    graph_launches++, host_ns += costs_ns.launch;
    for (operation *o = g->first; o; o = o->next) queue(s, o);
    return OK;
}
static int destroy(graph *g, long *count) {
    {
        LOCKED;
        for (operation *o = g->first, *next; o; o = next) next = o->next, __builtin_free(o);
        for (int at = 0; at < MOST_OWNED; at++) let_go(g->owns[at]);
        __builtin_free(g);
        --*count;
    }
    return bury();
}
EXPORT int cuGraphDestroy(graph *g) { return destroy(g, &live_graphs); }
EXPORT int cuGraphExecDestroy(graph *g) { return destroy(g, &live_executables); }

EXPORT int cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    static const char *const suffixes[] = {"_v3", "_v2", ""};
    char full[100];
    for (unsigned at = 0; at < 3; at++) {
        snprintf(full, sizeof full, "%s%s", name, suffixes[at]);
        if ((*found = dlsym(RTLD_DEFAULT, full)) || (*found = dlsym(RTLD_NEXT, full))) break;
    }
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}

/* ---- for the tests ---- */

EXPORT int stub_context_open(void) {
    LOCKED;
    contexts[++opened % MOST_CONTEXTS].live = 1;
    live_contexts++;
    return opened;
}
EXPORT void stub_context_close(int id) {
    LOCKED;
    if (contexts[id].queued != contexts[id].done)
        complain("execution context %ld ended before its work", id);
    contexts[id].live = 0;
    live_contexts--;
}
/* Without images: something of the context that has its turn, and computes nothing. */
EXPORT int stub_enqueue(void *handle, int id, void *source, void *target, const int sizes[5]) {
    LOCKED;
    stream *s = stream_of(handle);
    REQUIRE(s, bad_stream(handle));
    if (sizes[0]) host_ns += costs_ns.model;
    return queue(s, &(operation){
        .kind = MODEL, .context = id, .source = source, .target = target, .images = sizes[0],
        .channels = sizes[1], .pixels = sizes[2], .item_bytes = sizes[3], .classes = sizes[4],
        .takes_ns = sizes[0] ? takes_ns.model : 0});
}
/* What the host takes to launch a graph, begin a copy and enqueue a model, and the device for the latter. */
EXPORT void stub_pace(long launch, long copy, long model, long copy_there, long model_there) {
    LOCKED;
    costs_ns.launch = launch, costs_ns.copy = copy, costs_ns.model = model;
    takes_ns.copy = copy_there, takes_ns.model = model_there;
}
EXPORT long stub_host_ns(void) { LOCKED; return host_ns; }
EXPORT int stub_is_live(void *address, size_t bytes) {
    LOCKED;
    return find(address) && reaches(address, bytes, 1);
}
EXPORT void stub_limit(int kind, long bytes) { LOCKED; limits[kind] = bytes; }
EXPORT const char *stub_fault(void) { return fault; }
EXPORT long stub_count(const char *name) {
    const struct { const char *name; const long *number; } all[] = {
        {"device", &live[DEVICE]}, {"pinned", &live[PINNED]}, {"streams", &live_streams},
        {"events", &live_events}, {"graphs", &live_graphs}, {"executables", &live_executables},
        {"contexts", &live_contexts}, {"launches", &graph_launches}, {"captures", &captures},
        {"copies", &copies}, {"executions", &executions}, {"device_bytes", &used[DEVICE]}};
    LOCKED;
    for (unsigned at = 0; at < sizeof all / sizeof *all; at++)
        if (!strcmp(all[at].name, name)) return *all[at].number;
    return -1;
}
