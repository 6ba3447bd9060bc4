package state

import (
	"fmt"
	"strings"

	"pangaea/federation/pool"
	"pangaea/federation/tunnel"
)

// PolicyGateway returns the ACL rules of a gateway's token, for a Consul whose default policy is deny. Jobs are only
// read: they are written with the users' tokens.
func PolicyGateway() string {
	return rule("key_prefix", pool.KeyRoot, "write") +
		rule("key_prefix", pool.KeyJobs, "read") +
		rule("session_prefix", "", "write") +
		rule("service", tunnel.ServiceGateway, "write") +
		rule("node_prefix", "", "read") +
		rule("agent_prefix", "", "read")
}

// PolicyMember returns the ACL rules of a member agent's token: its own certificate and nothing else. Service
// identities of others, and every key, stay closed to it.
func PolicyMember(alias string) (string, error) {
	if !tunnel.ValidAlias(alias) {
		return "", fmt.Errorf("%w: alias %q: use lower-case letters, digits and dashes", ErrInvalid, alias)
	}
	return rule("service", tunnel.MemberService(alias), "write"), nil
}

// PolicyUser returns the ACL rules of a user who may run jobs in the given namespaces.
func PolicyUser(namespaces ...string) (string, error) {
	var rules strings.Builder
	for _, namespace := range namespaces {
		if !ValidNamespace(namespace) {
			return "", fmt.Errorf("%w: namespace %q: use letters, digits and dashes", ErrInvalid, namespace)
		}
		rules.WriteString(rule("key_prefix", pool.KeyJobs+namespace+"/", "write"))
	}
	return rules.String(), nil
}

func rule(kind, name, policy string) string {
	return fmt.Sprintf("%s %q {\n  policy = %q\n}\n", kind, name, policy)
}
