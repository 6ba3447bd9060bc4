# One task on one member of the pool, by its alias.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "pin" {
  region = "jp-tyo-1"
  type   = "batch"

  group "hello" {
    task "hello" {
      driver = "runc"

      config {
        image = "${var.registry}/hello-gpu:1"
      }

      resources {
        cpu    = 100
        memory = 64

        device "nvidia/gpu" {
          count = 1
        }
      }
    }
  }
}
