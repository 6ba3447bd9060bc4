// Package health judges one GPU from what its readings and its Xid events say, both ways: a sick GPU is taken out at once
// with a reason, and comes back by itself once it has been well for a while. It calls nothing and has no clock; callers
// hand in time and readings, and there is one [Judge] per GPU.
//
//	          finding                       finding
//	healthy ----------> sick <--------------------------------+
//	   ^                 |  all findings gone                 |
//	   |                 v                                    |
//	   +----------- recovering (RecoverAfter clean rounds) ---+
//
// A finding lasts as long as the readings show it, except for those of Xid events, which are moments: a class says how
// they end. What a tenant can cause by its own fault (an illegal access, a kernel that runs too long) is never a finding,
// or any tenant could take a GPU away from all others.
package health
