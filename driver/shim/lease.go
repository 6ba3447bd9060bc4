package main

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lease is the task's dead-man's switch: it must change within each ttl. What it says does not matter, only
// that somebody who may write it still does.
type lease struct {
	file    string
	ttl     time.Duration
	seen    uint64
	changed time.Duration
	checked time.Duration
	expired bool
}

const (
	holdPoll     = 75 * time.Millisecond
	minLeasePoll = 250 * time.Millisecond
	maxLeasePoll = 2 * time.Second
	maxLeaseSize = 4096
)

func (l *lease) exists() bool { return l.ttl > 0 }

// begin takes the file's present content for old: what was written before never counts.
func (l *lease) begin(at time.Duration) {
	if !l.exists() {
		return
	}
	l.seen, l.changed, l.checked = digest(l.file), at, at
}

// renewed says whether the content has changed since it was last looked at. A file that vanished or is empty
// renews nothing.
func (l *lease) renewed() bool {
	content := digest(l.file)
	if content == absent || content == l.seen {
		return false
	}
	l.seen = content
	return true
}

// check looks at the file if it is time to, and says whether the lease has run out.
func (l *lease) check(at time.Duration) bool {
	if !l.exists() || at-l.checked < l.interval() {
		return false
	}
	l.checked = at
	if l.renewed() {
		l.changed = at
	}
	l.expired = at-l.changed >= l.ttl
	return l.expired
}

func (l *lease) interval() time.Duration { return min(max(l.ttl/4, minLeasePoll), maxLeasePoll) }

// absent stands for no content.
const absent = 0

// digest hashes the file's first bytes by FNV-1a. The file is written by Nomad, where the task can't write.
func digest(path string) uint64 {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return absent
	}
	defer func() { _ = unix.Close(fd) }()
	var content [maxLeaseSize]byte
	n, err := unix.Read(fd, content[:])
	if err != nil || n <= 0 {
		return absent
	}
	hash := uint64(14695981039346656037)
	for _, b := range content[:n] {
		hash = (hash ^ uint64(b)) * 1099511628211
	}
	return max(hash, 1)
}

// hold waits until the lease is renewed for the first time, and says false if the task's init ended meanwhile.
func (s *shim) hold() bool {
	fds := []unix.PollFd{{Fd: int32(s.pidfd), Events: unix.POLLIN}}
	for {
		if s.lease.renewed() {
			s.lease.changed, s.lease.checked = now(), now()
			return true
		}
		_, err := unix.Poll(fds, int(holdPoll/time.Millisecond))
		if err == nil && fds[0].Revents != 0 {
			// Now, while it is a zombie: its parent, the runtime, reaps it as soon as it hears that there will be no start,
			// and before Linux 6.15 nobody else learns afterwards how it ended.
			s.collect()
			return false
		}
		if _, err := os.Lstat(s.dir); err != nil {
			// The task was destroyed under us.
			return false
		}
	}
}
