# A model server that may run in France or Germany only, on a GPU with at least 40 GiB. If its member is lost, the pool
# starts it elsewhere in those countries after lost_after; stop_on_client_after makes sure that two never run at once.
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
    attribute = "${var.countries}"
    operator  = "set_contains"
    value     = "${meta.pool.country}"
  }

  group "server" {
    count = 1

    network {
      mode = "bridge"
      port "http" {}
    }

    disconnect {
      lost_after           = "20s"
      stop_on_client_after = "10s"
      replace              = true
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
