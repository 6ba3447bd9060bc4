# Two tasks that take turns on one GPU. The node's operator has allowed it by the device plugin's allow_replicas = 4; each
# of four tasks may then count on a quarter of the memory, which nothing enforces. Only tasks of one Nomad namespace share
# a GPU, and no task has two shares of one. Jobs that want a GPU for themselves need say nothing where shared GPUs are a
# group of their own ("NVIDIA L4 shared"); to be sure, they constrain ${device.attr.replicas} with is_not_set.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "shared" {
  type = "batch"

  group "worker" {
    count = 2

    task "worker" {
      driver = "runc"

      config {
        image = "${var.registry}/hello-gpu:1"
      }

      resources {
        cpu    = 20
        memory = 16

        device "nvidia/gpu" {
          # A share, and never one of more than four.
          constraint {
            attribute = "${device.attr.replicas}"
            operator  = "<="
            value     = "4"
          }

          # What the share is good for, by its part of the memory.
          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "5 GiB"
          }
        }
      }
    }
  }
}
