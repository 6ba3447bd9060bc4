// Package doctor is "pangaea doctor": what this host can offer, and what is wrong with it.
//
// Every check looks at one thing and gives [Finding]s: ok, warn (works, but not as it should) or fail (tasks will fail,
// or Nomad's agent does not even start), with what was seen and the command or setting that mends it. A check never
// changes the host, and never takes what it could not see for good: without root it says so.
//
// What the plugins themselves need they know best: the doctor configures both as Nomad would and asks them
// ([Plugin]), so that its findings are what their fingerprints will say. Checks read files below [Host].Root and ask
// the kernel through its other fields, which is how the tests play a broken machine.
package doctor
