/* The simulator's state: what the state file says, the handles given out, and the faults to play. */
#ifndef NVMLSIM_H
#define NVMLSIM_H

#include <stddef.h>

enum { SIM_OK = 0, SIM_UNINITIALIZED = 1, SIM_INVALID = 2, SIM_NOT_SUPPORTED = 3, SIM_NOT_FOUND = 6,
       SIM_TOO_SMALL = 7, SIM_NO_DRIVER = 9, SIM_TIMEOUT = 10, SIM_LOST = 15 };

/* One section of the file: the machine (first), a GPU, or a MIG instance of the GPU before it. */
struct sim_section {
    char kind; /* 's' system, 'g' GPU, 'm' MIG instance */
    char *id;
    struct sim_section *parent;
    char **keys, **vals;
    int n;
};

/* sim_enter begins call fn on device handle dev (NULL for the machine's own calls). It plays delays and faults first.
   On SIM_OK the state is locked, *sec is the device's section, and the caller must call sim_leave. */
int sim_enter(const char *fn, const void *dev, struct sim_section **sec);
void sim_leave(void);

/* sim_hold plays the fault for fn of a GPU, or of a MIG instance's GPU, by its id: it waits the delay out and returns the code, or 0. */
int sim_hold(const char *id, const char *fn);

/* sim_get is the nth value under a key, NULL when there is none: the reading is then not supported. */
const char *sim_get(const struct sim_section *sec, const char *key, int nth);

/* The handle of a section, and all GPUs in file order; valid while locked. */
void *sim_handle(const struct sim_section *sec);
int sim_gpu_count(void);
struct sim_section *sim_gpu(int index);
struct sim_section *sim_mig(const struct sim_section *gpu, int nth);
struct sim_section *sim_by_id(const char *id);
struct sim_section *sim_system(void);

int sim_init(const char *fn);
int sim_shutdown(void);

/* sim_watch is an inotify descriptor that becomes readable when the state file changes, or -1. */
int sim_watch(void);
void sim_sleep_ms(long ms);

#endif
