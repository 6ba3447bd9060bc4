# A part of a GPU that its operator has split (nvidia-smi mig): a MIG instance has memory and cores of its own that the
# hardware keeps from others, so that it may be any namespace's. The task finds it as its only GPU.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "mig" {
  type = "batch"

  group "worker" {
    task "worker" {
      driver = "runc"

      config {
        image = "${var.registry}/hello-gpu:1"
      }

      resources {
        cpu    = 20
        memory = 16

        device "nvidia/gpu" {
          # By its size, whichever GPU it is of; a profile by name is ${device.attr.mig_profile} = "1g.5gb".
          constraint {
            attribute = "${device.attr.mig_profile}"
            operator  = "is_set"
          }

          constraint {
            attribute = "${device.attr.memory}"
            operator  = "<="
            value     = "10 GiB"
          }
        }
      }
    }
  }
}
