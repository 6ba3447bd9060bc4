/* A small nvidia-smi over whatever libnvidia-ml.so.1 is found: "-L" lists GPUs, no argument prints a summary. */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static void *lib;

static int (*sym(const char *name))() {
    return (int (*)())dlsym(lib, name);
}

int main(int argc, char **argv) {
    lib = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    if (lib == NULL) {
        fprintf(stderr, "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system: %s\n", dlerror());
        return 12;
    }
    int code = sym("nvmlInit_v2")();
    if (code != 0) {
        fprintf(stderr, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver (%d).\n", code);
        return code;
    }
    unsigned int n = 0;
    char driver[81] = "";
    sym("nvmlDeviceGetCount_v2")(&n);
    sym("nvmlSystemGetDriverVersion")(driver, 80);
    if (argc < 2 || strcmp(argv[1], "-L") != 0) printf("NVIDIA-SMI (simulated)   Driver Version: %s   GPUs: %u\n", driver, n);
    for (unsigned int i = 0; i < n; i++) {
        void *d = NULL;
        char name[97] = "", uuid[97] = "";
        if (sym("nvmlDeviceGetHandleByIndex_v2")(i, &d) != 0) {
            printf("Unable to determine the device handle for gpu %u: GPU is lost\n", i);
            continue;
        }
        sym("nvmlDeviceGetName")(d, name, 96u);
        sym("nvmlDeviceGetUUID")(d, uuid, 96u);
        printf("GPU %u: %s (UUID: %s)\n", i, name, uuid);
    }
    return 0;
}
