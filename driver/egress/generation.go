package egress

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// generation is the number of nftables' last transaction in this network namespace. While it stays the same nobody has
// changed any rule.
func generation() (uint32, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return 0, fmt.Errorf("cannot reach nftables: %w", err)
	}
	defer func() { _ = conn.Close() }()
	const versionAndResource = 4
	replies, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN, Flags: netlink.Request},
		Data:   make([]byte, versionAndResource),
	})
	if err != nil {
		return 0, fmt.Errorf("cannot ask nftables for its generation: %w", err)
	}
	for _, reply := range replies {
		if len(reply.Data) < versionAndResource {
			continue
		}
		attributes, err := netlink.UnmarshalAttributes(reply.Data[versionAndResource:])
		if err != nil {
			return 0, fmt.Errorf("cannot read nftables' generation: %w", err)
		}
		for _, a := range attributes {
			if a.Type == unix.NFTA_GEN_ID && len(a.Data) == 4 {
				return binary.BigEndian.Uint32(a.Data), nil
			}
		}
	}
	return 0, errors.New("cannot read nftables' generation: it names none")
}
