//! Blocks are widened to the values that the Python package `gguf` gives; `data/blocks.py` wrote them.

use std::{fs, path::Path};

use quest_burn_linear::blocks::BlockFormat;

#[test]
fn every_format_is_widened_to_the_last_bit() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/blocks");
    for &format in BlockFormat::ALL {
        let read = |extension| {
            let path = folder.join(format!("{format}.{extension}"));
            fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        let floats = read("f32");
        let expected = (floats.chunks_exact(4))
            .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")));
        let mut found = vec![f32::NAN; floats.len() / 4];
        format.dequantize(&read("blocks"), &mut found).unwrap();
        for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert_eq!(
                found.to_bits(),
                expected.to_bits(),
                "{format}, weight {i}: expected {expected}, found {found}"
            );
        }
    }
}
