//! A GitLab server as an upstream: we are its runner.
