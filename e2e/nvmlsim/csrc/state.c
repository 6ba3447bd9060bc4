/* Reading the state file, again whenever it changes, and finding things in it. */
#define _GNU_SOURCE
#include "sim.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_SECTIONS 512
#define TRAILER "NVMLSIM-TRAILER "

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct sim_section sections[MAX_SECTIONS];
static int section_count;
static char *text;
static struct stat seen;
static int loaded, inits, from_trailer;
static struct { char id[128]; } slots[MAX_SECTIONS];

void sim_sleep_ms(long ms) {
    struct timespec t = {ms / 1000, (ms % 1000) * 1000000L};
    while (nanosleep(&t, &t) != 0) {
    }
}

static void forget(void) {
    for (int i = 0; i < section_count; i++) {
        free(sections[i].keys);
        free(sections[i].vals);
    }
    free(text);
    text = NULL;
    section_count = loaded = 0;
    memset(&seen, 0, sizeof seen);
}

static void add_line(struct sim_section *s, char *key, char *val) {
    if (s->n % 32 == 0) {
        s->keys = realloc(s->keys, (s->n + 32) * sizeof *s->keys);
        s->vals = realloc(s->vals, (s->n + 32) * sizeof *s->vals);
    }
    s->keys[s->n] = key;
    s->vals[s->n++] = val;
}

static struct sim_section *add_section(char kind, char *id, struct sim_section *parent) {
    if (section_count == MAX_SECTIONS) return &sections[section_count - 1];
    struct sim_section *s = &sections[section_count++];
    memset(s, 0, sizeof *s);
    s->kind = kind;
    s->id = id;
    s->parent = parent;
    return s;
}

/* A sandboxed program sees the machine's state in the library itself, and of its GPUs only those with a device node. */
static int hidden(const struct sim_section *gpu) {
    const char *minor = sim_get(gpu, "MinorNumber", 0);
    char node[64];
    snprintf(node, sizeof node, "/dev/nvidia%s", minor ? minor : "?");
    return access(node, F_OK) != 0;
}

static void drop_hidden(void) {
    int kept = 0;
    struct sim_section *gone = NULL;
    for (int i = 0; i < section_count; i++) {
        struct sim_section *s = &sections[i];
        if ((s->kind == 'g' && hidden(s)) || (s->kind == 'm' && s->parent == gone)) {
            if (s->kind == 'g') gone = s;
            free(s->keys);
            free(s->vals);
            continue;
        }
        if (s->kind == 'm') s->parent = NULL; /* set again below: sections move */
        sections[kept++] = *s;
        if (s->kind == 'g') gone = NULL;
    }
    section_count = kept;
    struct sim_section *gpu = NULL;
    for (int i = 0; i < section_count; i++) {
        if (sections[i].kind == 'g') gpu = &sections[i];
        if (sections[i].kind == 'm') sections[i].parent = gpu;
    }
}

static void parse(char *all) {
    text = all;
    struct sim_section *cur = add_section('s', "", NULL), *gpu = NULL;
    char *rest = all, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        while (*line == ' ' || *line == '\t') line++;
        char *val = line;
        char *key = strsep(&val, " ");
        if (key == NULL || *key == 0 || *key == '#') continue;
        if (val == NULL) val = "";
        if (strcmp(key, "gpu") == 0) cur = gpu = add_section('g', val, NULL);
        else if (strcmp(key, "mig") == 0) cur = add_section('m', val, gpu);
        else add_line(cur, key, val);
    }
    loaded = 1;
    if (from_trailer) drop_hidden();
}

static char *slurp(const char *path, long from, long size) {
    FILE *f = fopen(path, "re");
    if (f == NULL) return NULL;
    char *all = calloc(1, size + 1);
    int bad = fseek(f, from, SEEK_SET) != 0 || fread(all, 1, size, f) != (size_t)size;
    fclose(f);
    if (bad) {
        free(all);
        return NULL;
    }
    return all;
}

static void self_path(char *out, size_t size) {
    Dl_info info;
    out[0] = 0;
    if (dladdr((void *)self_path, &info) == 0 || realpath(info.dli_fname, out) == NULL) snprintf(out, size, "%s", info.dli_fname);
}

/* The library may carry a state: <text><TRAILER><20 digits of the text's size>\n at its end. */
static char *trailer(const char *self) {
    struct stat st;
    long tail = strlen(TRAILER) + 21;
    if (stat(self, &st) != 0 || st.st_size < tail) return NULL;
    char *end = slurp(self, st.st_size - tail, tail);
    if (end == NULL || strncmp(end, TRAILER, strlen(TRAILER)) != 0) {
        free(end);
        return NULL;
    }
    long size = atol(end + strlen(TRAILER));
    free(end);
    return slurp(self, st.st_size - tail - size, size);
}

/* Where the live state is: NVMLSIM_STATE, the "live" line of the trailer, or nvmlsim.state beside the library.
   The trailer's own text serves where the live file's directory cannot be seen, as in a sandbox. */
static char *locate(char *path, size_t size) {
    static char self[4096];
    const char *env = getenv("NVMLSIM_STATE");
    from_trailer = 0;
    if (env != NULL && *env != 0) {
        snprintf(path, size, "%s", env);
        return NULL;
    }
    if (self[0] == 0) self_path(self, sizeof self);
    char *carried = trailer(self);
    if (carried == NULL) {
        snprintf(path, size, "%s", self);
        char *slash = strrchr(path, '/');
        snprintf(slash ? slash + 1 : path, size - (slash ? slash + 1 - path : 0), "nvmlsim.state");
        return NULL;
    }
    char *nl = strchr(carried, '\n');
    path[0] = 0;
    if (strncmp(carried, "live ", 5) == 0 && nl != NULL) {
        snprintf(path, size, "%.*s", (int)(nl - carried - 5), carried + 5);
        char dir[4096];
        snprintf(dir, sizeof dir, "%s", path);
        char *slash = strrchr(dir, '/');
        if (slash != NULL) *slash = 0;
        if (access(dir, F_OK) == 0) {
            free(carried);
            return NULL;
        }
    }
    from_trailer = 1;
    return carried;
}

static char live_path[4096];
static int live_known;

static void load(void) {
    if (!live_known) {
        char *carried = locate(live_path, sizeof live_path);
        live_known = 1;
        if (carried != NULL) {
            parse(carried);
            return;
        }
    }
    if (from_trailer) return;
    struct stat st;
    if (stat(live_path, &st) != 0) {
        forget();
        return;
    }
    if (loaded && st.st_ino == seen.st_ino && st.st_size == seen.st_size && st.st_mtim.tv_sec == seen.st_mtim.tv_sec &&
        st.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    forget();
    seen = st;
    char *all = slurp(live_path, 0, st.st_size);
    if (all != NULL) parse(all);
}

const char *sim_get(const struct sim_section *sec, const char *key, int nth) {
    for (int i = 0; sec != NULL && i < sec->n; i++)
        if (strcmp(sec->keys[i], key) == 0 && nth-- == 0) return sec->vals[i];
    return NULL;
}

static int find_fault(const struct sim_section *sec, const char *fn, long *delay) {
    const char *v;
    for (int i = 0; (v = sim_get(sec, "fault", i)) != NULL; i++) {
        char name[128];
        int code = 0;
        long ms = 0;
        if (sscanf(v, "%127s %d %ld", name, &code, &ms) < 2) continue;
        if (strcmp(name, "*") != 0 && strcmp(name, fn) != 0) continue;
        *delay = ms;
        return code;
    }
    return 0;
}

/* A MIG instance shares its GPU's fate. */
static int play(struct sim_section *sec, const char *fn, long *delay) {
    int code = find_fault(sim_system(), fn, delay);
    if (code == 0 && *delay == 0 && sec != NULL && sec->kind == 'm') code = find_fault(sec->parent, fn, delay);
    if (code == 0 && *delay == 0 && sec != NULL && sec->kind != 's') code = find_fault(sec, fn, delay);
    return code;
}

static int look(const void *dev, struct sim_section **sec) {
    if (!loaded) return SIM_NO_DRIVER;
    *sec = sim_system();
    if (dev == NULL) return SIM_OK;
    if ((const char *)dev < (const char *)slots || (const char *)dev >= (const char *)(slots + MAX_SECTIONS)) return SIM_INVALID;
    *sec = sim_by_id(dev);
    return *sec != NULL ? SIM_OK : SIM_LOST;
}

/* A delay lasts until its fault is gone from the state, at the longest. The state is locked before and after. */
static void tick(void) {
    pthread_mutex_unlock(&lock);
    sim_sleep_ms(10);
    pthread_mutex_lock(&lock);
    load();
}

static void wait_out(const void *dev, const char *fn, long delay) {
    for (long slept = 0; slept < delay; slept += 10) {
        struct sim_section *sec = NULL;
        long still = 0;
        tick();
        if (dev != NULL && look(dev, &sec) != SIM_OK) return;
        play(sec, fn, &still);
        if (still == 0) return;
    }
}

static int fault_of(const char *id, const char *fn, long *delay) {
    struct sim_section *sec = sim_by_id(id);
    if (sec != NULL && sec->kind == 'm') sec = sec->parent;
    return sec == NULL ? 0 : find_fault(sec, fn, delay);
}

int sim_hold(const char *id, const char *fn) {
    long delay = 0, still = 1;
    int code = fault_of(id, fn, &delay);
    for (long slept = 0; slept < delay && still != 0; slept += 10) {
        tick();
        still = 0;
        fault_of(id, fn, &still);
    }
    return code;
}

int sim_enter(const char *fn, const void *dev, struct sim_section **sec) {
    pthread_mutex_lock(&lock);
    load();
    long delay = 0;
    int code = inits == 0 ? SIM_UNINITIALIZED : look(dev, sec);
    if (code == SIM_OK) code = play(*sec, fn, &delay);
    if (delay > 0) {
        wait_out(dev, fn, delay);
        if (code == SIM_OK) code = look(dev, sec);
    }
    if (code != SIM_OK) pthread_mutex_unlock(&lock);
    return code;
}

void sim_leave(void) { pthread_mutex_unlock(&lock); }

void *sim_handle(const struct sim_section *sec) {
    for (int i = 0; i < MAX_SECTIONS; i++) {
        if (slots[i].id[0] == 0) snprintf(slots[i].id, sizeof slots[i].id, "%s", sec->id);
        if (strcmp(slots[i].id, sec->id) == 0) return &slots[i];
    }
    return NULL;
}

struct sim_section *sim_system(void) { return loaded ? &sections[0] : NULL; }

int sim_gpu_count(void) {
    int n = 0;
    while (sim_gpu(n) != NULL) n++;
    return n;
}

static struct sim_section *nth(char kind, const struct sim_section *parent, int n) {
    for (int i = 0; i < section_count; i++)
        if (sections[i].kind == kind && sections[i].parent == parent && n-- == 0) return &sections[i];
    return NULL;
}

struct sim_section *sim_gpu(int index) { return nth('g', NULL, index); }
struct sim_section *sim_mig(const struct sim_section *gpu, int n) { return nth('m', gpu, n); }

struct sim_section *sim_by_id(const char *id) {
    for (int i = 1; i < section_count; i++)
        if (strcmp(sections[i].id, id) == 0) return &sections[i];
    return NULL;
}

int sim_init(const char *fn) {
    pthread_mutex_lock(&lock);
    load();
    long delay = 0;
    int code = loaded ? play(NULL, fn, &delay) : SIM_NO_DRIVER;
    wait_out(NULL, fn, delay);
    if (code == SIM_OK) inits++;
    pthread_mutex_unlock(&lock);
    return code;
}

int sim_shutdown(void) {
    pthread_mutex_lock(&lock);
    int code = inits > 0 ? SIM_OK : SIM_UNINITIALIZED;
    if (inits > 0) inits--;
    pthread_mutex_unlock(&lock);
    return code;
}

int sim_watch(void) {
    char dir[4096];
    pthread_mutex_lock(&lock);
    load();
    snprintf(dir, sizeof dir, "%s", from_trailer ? "" : live_path);
    pthread_mutex_unlock(&lock);
    char *slash = strrchr(dir, '/');
    if (slash == NULL) return -1;
    *slash = 0;
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (fd >= 0 && inotify_add_watch(fd, dir, IN_MOVED_TO | IN_DELETE | IN_CLOSE_WRITE) < 0) {
        close(fd);
        return -1;
    }
    return fd;
}
