// Package escape is a task that tries to get out, by every way that is known and can be tried without harm. It promises
// that of all its attempts none reaches anything, as root or as another user, as the task itself or as a command run in
// it; and that most of them do reach something where nothing is in their way, so that the first is worth anything.
package escape
