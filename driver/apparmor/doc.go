// Package apparmor keeps one profile of the driver's own loaded where the kernel has AppArmor, and tells which profiles
// are. A task under it may do inside its sandbox what it could before, but for what would only matter if another wall of
// the sandbox had fallen: mount anything, write kernel settings, read kernel memory, or signal and trace what is outside.
//
// The kernel's interface is that of its AppArmor documentation (securityfs and /sys/module/apparmor); profiles are
// compiled by apparmor_parser, of Debian's and Ubuntu's package apparmor, which nothing else stands in for.
package apparmor
