//! The generated code is what the .proto files say. `SLIPWAY_WRITE_GENERATED=1` writes it anew.

use std::{fs, path::Path};

#[test]
fn generated_code_is_what_the_protos_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure()
        .out_dir(out.path())
        .emit_rerun_if_changed(false)
        .compile_protos(&["slipway/v1/runner.proto", "slipway/v1/control.proto"].map(|p| root.join(p)), &[root.into()])
        .expect("protoc (Debian package protobuf-compiler) compiles the .proto files");
    let made = fs::read_to_string(out.path().join("slipway.v1.rs")).unwrap();
    let kept = root.join("src/gen/slipway.v1.rs");
    if std::env::var_os("SLIPWAY_WRITE_GENERATED").is_some() {
        fs::create_dir_all(kept.parent().unwrap()).unwrap();
        fs::write(&kept, &made).unwrap();
    }
    assert!(
        fs::read_to_string(&kept).unwrap_or_default() == made,
        "{} is not what the .proto files say: run SLIPWAY_WRITE_GENERATED=1 cargo test -p slipway-wire --test generated",
        kept.display()
    );
}
