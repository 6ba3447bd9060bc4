# Two GPUs that reach each other over NVLink. Where the operator has set the device plugin's group_by = "nvlink", the GPUs of
# each clique are a group of their own ("NVIDIA A100-SXM4-80GB nvlink switch"), and Nomad never meets one device block from
# two groups; group_by = "numa" does the same for GPUs behind one processor.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "topology" {
  type = "batch"

  group "trainer" {
    task "trainer" {
      driver = "runc"

      config {
        image = "${var.registry}/hello-gpu:1"
      }

      resources {
        cpu    = 20
        memory = 16

        device "nvidia/gpu" {
          count = 2

          # Not merely two of a kind: without a clique there is no such attribute.
          constraint {
            attribute = "${device.attr.nvlink_clique}"
            operator  = "is_set"
          }
        }
      }
    }
  }
}
