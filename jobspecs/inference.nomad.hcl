# A model server that may run in France or Germany only, on a GPU with at least 40 GiB. If its member is lost, the pool
# starts it elsewhere in those countries after lost_after, and stops the old copy when the member returns. For a service
# that must never run twice, not even while its member is away, say stop_on_client_after instead: the old copy ends by
# itself, and the pool waits until it must have.
variable "registry" {
  default     = "10.199.0.1:5000"
  description = "Registry that holds the image; the demo's own by default."
}

variable "countries" {
  default     = "FR,DE"
  description = "Countries that may run the service, comma-separated."
}

job "inference" {
  type = "service"

  constraint {
    attribute = "${meta.pool.country}"
    operator  = "set_contains_any"
    value     = var.countries
  }

  group "server" {
    count = 1

    network {
      mode = "bridge"
      port "http" {}
    }

    disconnect {
      lost_after = "20s"
      replace    = true
    }

    task "server" {
      driver = "runc"

      config {
        image = "${var.registry}/inference:1"
      }

      env {
        POOL_COUNTRY = "${meta.pool.country}"
      }

      resources {
        cpu    = 200
        memory = 128

        device "nvidia/gpu" {
          count = 1

          constraint {
            attribute = "${device.attr.memory}"
            operator  = ">="
            value     = "40 GiB"
          }
        }
      }
    }
  }
}
