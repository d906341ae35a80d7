//! A door as a program of its own, for tests of the runner alone; `slipway engine-door` is the same.

fn main() -> std::io::Result<()> {
    slipway_runner::engine::door::serve(&std::env::args().skip(1).collect::<Vec<_>>())
}
