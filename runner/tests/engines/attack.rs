//! Attacks by root in an engine, through the engine's own Docker API.
