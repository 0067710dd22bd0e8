//! How a cube is laid out, by the instructions of the device and what its shared memory holds.

use cubecl::ir::{DeviceProperties, ElemType};

use super::super::super::cooperative_matrix::{ALIGNMENT, Fragment, Instruction, WIDTH};

/// Planes, query tokens of a plane and keys of a tile, the best first.
const SHAPES: [(usize, usize, usize); 4] = [(8, 16, 32), (4, 16, 32), (4, 16, 16), (4, 8, 16)];
/// Output channels of a plane's tokens, for each unit, that stay in registers.
const MOST_SUMS: usize = 128;

/// What a cube's kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CooperativeShape {
    pub head_dim: usize,
    pub page_size: usize,
    pub instruction: Instruction,
    pub planes: usize,
    /// Fragments of query tokens of a plane: keys and values that it reads serve them all.
    pub fragments: usize,
    /// Keys of a tile.
    pub keys: usize,
    /// Elements of a word: keys and values are copied in vectors of words.
    pub packed: usize,
}

impl CooperativeShape {
    /// Whether vectors of words cut rows and instructions evenly.
    fn is_even(&self) -> bool {
        let part = self.part();
        let Fragment { n, k, .. } = self.instruction.fragment;
        [self.head_dim, n, k]
            .iter()
            .all(|size| size.is_multiple_of(part))
            && (self.keys / part).is_multiple_of(self.lanes())
    }

    pub(crate) fn units(&self) -> usize {
        self.planes * self.instruction.plane
    }

    /// Query tokens of a plane.
    pub(crate) fn rows(&self) -> usize {
        self.fragments * self.instruction.fragment.m
    }

    /// Query tokens of a cube.
    pub(crate) fn tokens(&self) -> usize {
        self.planes * self.rows()
    }

    /// Elements of a vector of words.
    pub(crate) fn part(&self) -> usize {
        WIDTH * self.packed
    }

    /// Vectors of words of a row of keys.
    pub(crate) fn parts(&self) -> usize {
        self.head_dim / self.part()
    }

    /// Elements from a row of keys in shared memory to the next: neighbouring rows lie in different banks.
    pub(crate) fn stride(&self) -> usize {
        self.head_dim + ALIGNMENT / 2
    }

    /// Numbers from the scores of a token to those of the next.
    pub(crate) fn score_stride(&self) -> usize {
        self.keys.max(self.instruction.fragment.n) + ALIGNMENT / 4
    }

    /// Elements from the weights of a token to those of the next.
    pub(crate) fn weight_stride(&self) -> usize {
        self.keys + ALIGNMENT / 2
    }

    /// Instructions along the channels of a score.
    pub(crate) fn steps(&self) -> usize {
        self.head_dim / self.instruction.fragment.k
    }

    /// Instructions along the output of a token.
    pub(crate) fn columns(&self) -> usize {
        self.head_dim / self.instruction.fragment.n
    }

    /// Units that share a token's softmax.
    pub(crate) fn lanes(&self) -> usize {
        (self.instruction.plane / self.rows()).max(1)
    }

    /// Tokens of a unit.
    pub(crate) fn own_rows(&self) -> usize {
        (self.rows() / self.instruction.plane).max(1)
    }

    /// Vectors of scores of a unit, for each of its tokens.
    pub(crate) fn own_scores(&self) -> usize {
        self.keys / WIDTH / self.lanes()
    }

    /// Vectors of keys, and of values, that a unit loads for a tile.
    pub(crate) fn loads(&self) -> usize {
        (self.keys * self.parts()).div_ceil(self.units())
    }

    fn bytes(&self) -> usize {
        let tiles = 2 * self.keys * self.stride() * 2;
        let scores = self.tokens() * self.score_stride() * 4;
        let weights = self.tokens() * self.weight_stride() * 2;
        tiles + scores + weights
    }

    fn fits(&self, properties: &DeviceProperties) -> bool {
        let Fragment { m, n, k } = self.instruction.fragment;
        let hardware = &properties.hardware;
        let rows = self.rows();
        self.fragments > 0
            && rows * self.head_dim <= MOST_SUMS * self.instruction.plane
            && self.head_dim.is_multiple_of(n)
            && self.head_dim.is_multiple_of(k)
            && self.keys.is_multiple_of(n)
            && self.keys.is_multiple_of(k)
            && self.keys.is_multiple_of(m)
            && self.tokens().is_multiple_of(self.keys)
            && (self.instruction.plane.is_multiple_of(rows)
                || rows.is_multiple_of(self.instruction.plane))
            && self.is_even()
            && self.units() <= hardware.max_units_per_cube as usize
            && self.bytes() <= hardware.max_shared_memory_size
    }

    /// The shape for a device and an element type, if the kernel runs there.
    pub(crate) fn plan(
        properties: &DeviceProperties,
        element: ElemType,
        head_dim: usize,
        page_size: usize,
    ) -> Option<Self> {
        let instruction = Instruction::of(properties, element)?;
        SHAPES
            .iter()
            .map(|&(planes, rows, keys)| Self {
                head_dim,
                page_size,
                instruction,
                planes,
                fragments: rows / instruction.fragment.m,
                keys,
                packed: 2,
            })
            .find(|shape| shape.fits(properties))
    }
}

#[cfg(test)]
mod tests {
    use cubecl::{
        ir::{
            DeviceIdentity, FloatKind, HardwareProperties, MemoryDeviceProperties,
            features::{Features, MmaConfig, Plane},
        },
        profile::TimingMethod,
    };

    use super::*;

    const F16: ElemType = ElemType::Float(FloatKind::F16);
    const METAL: (usize, u32) = (32 * 1024, 8);
    const NVIDIA: (usize, u32) = (48 * 1024, 16);

    /// A device with so much shared memory, and instructions of this size.
    fn device((room, size): (usize, u32), planes: [u32; 2]) -> DeviceProperties {
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: planes[0],
            plane_size_max: planes[1],
            max_bindings: 32,
            max_shared_memory_size: room,
            max_cube_count: (65_535, 65_535, 65_535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: None,
            num_tensor_cores: None,
            min_tensor_cores_dim: Some(size),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: WIDTH,
            cube_mma_reserved_shared_memory: 0,
        };
        let identity = DeviceIdentity {
            name: "device".to_owned(),
            fingerprint: "device".to_owned(),
            physical: None,
        };
        let mut features = Features::default();
        features.plane.insert(Plane::Sync);
        features.matmul.cmma.insert(MmaConfig {
            a_type: F16,
            b_type: F16,
            cd_type: ElemType::Float(FloatKind::F32),
            m: size,
            n: size,
            k: size,
        });
        let memory = MemoryDeviceProperties::new(u64::MAX, 256);
        DeviceProperties::new(features, memory, hardware, TimingMethod::Device, identity)
    }

    #[test]
    fn heads_of_up_to_256_channels_have_a_shape_on_every_device() {
        for kind in [METAL, NVIDIA] {
            let properties = device(kind, [32, 32]);
            for head_dim in [16, 64, 80, 96, 128, 256] {
                let shape = CooperativeShape::plan(&properties, F16, head_dim, 16).unwrap();
                assert!(shape.bytes() <= kind.0, "{shape:?}");
            }
            assert_eq!(CooperativeShape::plan(&properties, F16, 512, 16), None);
        }
    }

    #[test]
    fn more_room_gives_more_work_to_a_cube() {
        let work = |kind| {
            let shape = CooperativeShape::plan(&device(kind, [32, 32]), F16, 128, 16).unwrap();
            shape.tokens() * shape.keys
        };
        assert!(work(METAL) < work(NVIDIA));
    }

    #[test]
    fn a_head_that_instructions_do_not_cut_evenly_has_no_shape() {
        let properties = device(NVIDIA, [32, 32]);
        assert_eq!(CooperativeShape::plan(&properties, F16, 24, 16), None);
    }

    #[test]
    fn planes_of_any_size_have_no_shape() {
        let properties = device(NVIDIA, [32, 64]);
        assert_eq!(CooperativeShape::plan(&properties, F16, 128, 16), None);
    }
}
