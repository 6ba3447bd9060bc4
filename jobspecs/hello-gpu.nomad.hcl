# One GPU for one task that prints what it was given. Runs on any member of the pool.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "hello-gpu" {
  type = "batch"

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
