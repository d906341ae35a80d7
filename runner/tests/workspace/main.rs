//! Sources, artifacts, caches, masking and pressure on real repositories, file systems and kernels.

mod artifacts;
mod caches;
mod masking;
mod pressure;
mod repository;
mod sources;
