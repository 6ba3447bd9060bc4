# Six workers that train one model together. No member has six GPUs: the pool spreads the gang over members that
# cannot reach each other, starts all of the workers or none, and carries their TCP. Each worker finds RANK,
# WORLD_SIZE, MASTER_ADDR and MASTER_PORT in its environment, as torchrun's env:// rendezvous wants them.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

job "training" {
  type = "batch"

  group "worker" {
    count = 6

    meta {
      pool_gang = "true"
    }

    network {
      mode = "bridge"
      port "rendezvous" {}
    }

    restart {
      attempts = 2
      delay    = "2s"
      mode     = "fail"
    }

    task "worker" {
      driver = "runc"

      config {
        image = "${var.registry}/training:1"
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
