//! Regenerates `proto/src/gen` in place.

use proto_codegen::{generate, generated_dir};

fn main() -> anyhow::Result<()> {
    generate(&generated_dir())
}
