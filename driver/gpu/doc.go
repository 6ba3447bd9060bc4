// Package gpu turns a grant of GPUs into what a sandbox needs: device nodes and a directory with the NVIDIA driver's
// libraries and programs.
//
// The grant is read from Nomad's DeviceEnv alone ([Grants]), which comes from the device plugin and which no job can
// write. What a GPU needs is computed in memory by NVIDIA's own generator (nvcdi), and taken without its hooks: a hook
// runs as root on the host in the reach of the tenant's files and environment (CVE-2025-23266, CVE-2024-0132,
// CVE-2025-23359). Their work, soname links and a library path, is done here, once per driver version, in a directory
// that tasks get read-only.
//
// On disk it owns the directory it is given: one directory per set of driver files, complete from the moment that it
// has its final name. It must never look into an image, never pass on a node that is not of the allow-list (no mode
// setting, no rendering nodes, no fabric) and never run a program.
//
// NVML is loaded only by nvcdi, on first use, from the driver root.
package gpu
