/// A format of floats, each of which is a block.
pub(super) trait Float: Copy {
    /// ggml's name of the format.
    const NAME: &'static str;
    /// ggml's number of the format.
    const GGML_TYPE: u32;
    /// Bytes of a float.
    const BYTES: usize;

    /// Widens one.
    fn widen(bytes: &[u8]) -> f32;
}

/// 32-bit floats.
#[derive(Clone, Copy)]
pub(super) struct F32;

impl Float for F32 {
    const NAME: &'static str = "F32";
    const GGML_TYPE: u32 = 0;
    const BYTES: usize = 4;

    fn widen(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// 16-bit floats.
#[derive(Clone, Copy)]
pub(super) struct F16;

impl Float for F16 {
    const NAME: &'static str = "F16";
    const GGML_TYPE: u32 = 1;
    const BYTES: usize = 2;

    fn widen(bytes: &[u8]) -> f32 {
        half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

/// The upper halves of 32-bit floats.
#[derive(Clone, Copy)]
pub(super) struct BF16;

impl Float for BF16 {
    const NAME: &'static str = "BF16";
    const GGML_TYPE: u32 = 30;
    const BYTES: usize = 2;

    fn widen(bytes: &[u8]) -> f32 {
        half::bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}
