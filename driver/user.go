package driver

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"pangaea/driver/openat"
	"pangaea/driver/sandbox"
)

// maxAccountFile bounds what is read of an image's user database.
const maxAccountFile = 1 << 20

// account is one line of /etc/passwd or /etc/group.
type account struct {
	name    string
	id, gid uint32
	members []string
}

// resolveUser finds who "user", "user:group", "1000" or "1000:1000" is, by the image's own files.
func resolveUser(rootfs, spec string) (sandbox.User, error) {
	if spec == "" {
		return sandbox.User{}, nil
	}
	name, group, hasGroup := strings.Cut(spec, ":")
	users, err := readAccounts(rootfs, "etc/passwd")
	if err != nil {
		return sandbox.User{}, err
	}
	u, known, err := find(users, name)
	if err != nil {
		return sandbox.User{}, fmt.Errorf("cannot run as user %q: the image has no such user; name one of its /etc/passwd or give a number", name)
	}
	user := sandbox.User{UID: u.id, GID: u.gid}
	if !hasGroup && !known {
		return user, nil
	}
	groups, err := readAccounts(rootfs, "etc/group")
	if err != nil {
		return sandbox.User{}, err
	}
	if hasGroup {
		g, _, err := find(groups, group)
		if err != nil {
			return sandbox.User{}, fmt.Errorf("cannot run as group %q: the image has no such group; name one of its /etc/group or give a number", group)
		}
		user.GID = g.id
		return user, nil
	}
	user.Groups = groupsOf(groups, u)
	return user, nil
}

// addGroups makes a user a member of more groups of the image's, by name or number.
func addGroups(rootfs string, user *sandbox.User, wanted []string) error {
	if len(wanted) == 0 {
		return nil
	}
	groups, err := readAccounts(rootfs, "etc/group")
	if err != nil {
		return err
	}
	for _, name := range wanted {
		g, _, err := find(groups, name)
		if err != nil {
			return fmt.Errorf("cannot add group %q: the image has no such group; name one of its /etc/group or give a number", name)
		}
		if g.id >= sandbox.IDRangeSize {
			return fmt.Errorf("cannot add group %q: %d lies outside the sandbox's %d identifiers", name, g.id, sandbox.IDRangeSize)
		}
		user.Groups = append(user.Groups, g.id)
	}
	return nil
}

// groupsOf are the groups that list a user, besides its own.
func groupsOf(groups []account, u account) []uint32 {
	var ids []uint32
	for _, g := range groups {
		if g.id != u.gid && slices.Contains(g.members, u.name) {
			ids = append(ids, g.id)
		}
	}
	return ids
}

// find looks a name or number up; a number that is not listed stands for itself. A number is never looked up as a name:
// the image could make its user "1000" root (CVE-2016-3697).
func find(list []account, name string) (a account, known bool, err error) {
	number, numErr := strconv.ParseUint(name, 10, 32)
	for _, a := range list {
		if (numErr != nil && a.name == name) || (numErr == nil && uint64(a.id) == number) {
			return a, true, nil
		}
	}
	if numErr == nil {
		return account{id: uint32(number)}, false, nil
	}
	return account{}, false, errors.New("not found")
}

// readAccounts reads a user database of a hostile image: links are followed inside the image only, and what is not a
// plain file (a FIFO would block) is not read.
func readAccounts(rootfs, name string) ([]account, error) {
	root, err := unix.Open(rootfs, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the task's root file system: %w", err)
	}
	defer func() { _ = unix.Close(root) }()
	fd, err := openat.Open(root, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open the image's /%s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read the image's /%s: it is not a plain file", name)
	}
	return parseAccounts(io.LimitReader(f, maxAccountFile)), nil
}

// parseAccounts reads name:password:id[:gid or members...]; it skips what it can't read.
func parseAccounts(r io.Reader) []account {
	var list []account
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxAccountFile) // a group of many members is a long line
	for lines.Scan() {
		fields := strings.Split(lines.Text(), ":")
		if len(fields) < 3 || fields[0] == "" {
			continue
		}
		id, err := strconv.ParseUint(fields[2], 10, 32)
		if err != nil {
			continue
		}
		a := account{name: fields[0], id: uint32(id)}
		if len(fields) > 3 {
			gid, err := strconv.ParseUint(fields[3], 10, 32)
			if err == nil {
				a.gid = uint32(gid)
			}
			a.members = strings.FieldsFunc(fields[3], func(r rune) bool { return r == ',' })
		}
		list = append(list, a)
	}
	return list
}
