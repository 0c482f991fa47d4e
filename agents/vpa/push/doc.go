// Package push is the platform's part in a recommendation: what it recommends comes in, which workloads it is for and what became of it
// go out.
//
// A list of recommendations is taken whole or not at all. What is stale, replayed, too new or simply wrong changes nothing, and the last
// good one stays until its own end (ValidUntil). From then on the local model is all there is: an old recommendation freezes nothing.
// Merge says what holds while there is one: the platform knows weeks of usage, the local model what happened just now, and nobody goes
// below what the local model holds for the least, nor below what a container needed when it ran out of memory.
package push
