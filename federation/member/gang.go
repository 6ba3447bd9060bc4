package member

import (
	"fmt"

	"github.com/hashicorp/nomad/api"

	"pangaea/federation/pool"
)

// rendezvousLabel is the port at which rank 0 of a gang is met; without it the group's first port is.
const rendezvousLabel = "rendezvous"

// gangFile is where the workers' environment is rendered. secrets/ is never shown by "alloc fs".
const gangFile = "secrets/pool-gang.env"

// rendezvousPort is the label of the port at which rank 0 is met, or "".
func rendezvousPort(group *api.TaskGroup) string {
	first := ""
	for _, network := range group.Networks {
		for _, port := range append(append([]api.Port{}, network.ReservedPorts...), network.DynamicPorts...) {
			if port.Label == rendezvousLabel {
				return port.Label
			}
			if first == "" {
				first = port.Label
			}
		}
	}
	return first
}

// gangTemplate renders what torchrun's env:// rendezvous reads. Nomad numbers allocations from 0 in each member, so
// the rank adds where this member's share begins. Rank 0 binds its own port and meets itself on loopback; the others
// are told the agent's relay.
const gangTemplate = `{{ $rank := env "NOMAD_ALLOC_INDEX" | parseInt | add %[1]d -}}
RANK={{ $rank }}
WORLD_SIZE=%[2]d
LOCAL_RANK=0
LOCAL_WORLD_SIZE=1
GROUP_RANK={{ $rank }}
NODE_RANK={{ $rank }}
%[3]s`

const gangMaster = `{{ if eq $rank 0 -}}
MASTER_ADDR=127.0.0.1
MASTER_PORT={{ env "NOMAD_PORT_%[1]s" }}
{{ else -}}
MASTER_ADDR=%[2]s
MASTER_PORT=%[3]d
{{ end -}}
`

// joinGang gives each task of a gang's group its place in the world. relayPort 0 means that the group has no port to
// meet at.
func joinGang(group *api.TaskGroup, share pool.GroupShare, label, relayAddr string, relayPort int) {
	master := ""
	if label != "" {
		master = fmt.Sprintf(gangMaster, label, relayAddr, relayPort)
	}
	template := &api.Template{
		DestPath:     ptr(gangFile),
		EmbeddedTmpl: ptr(fmt.Sprintf(gangTemplate, share.Offset, share.Total, master)),
		ChangeMode:   ptr("noop"), // a world that changed is a new placement
		Envvars:      ptr(true),
		Perms:        ptr("0444"),
	}
	for _, task := range group.Tasks {
		task.Templates = append(task.Templates, template)
	}
}
