use cubecl::ir::HardwareProperties;

/// Most units of a cube.
const UNITS: usize = 256;
/// Most units that read neighbouring weights of a channel.
const LANES: usize = 32;
/// Most groups of units, whose sums a unit adds up at the end.
const GROUPS: usize = 32;
/// Loads of weights that a unit has in flight.
const IN_FLIGHT: usize = 8;
/// Cubes that a multiprocessor is meant to hold.
const CUBES_PER_MULTIPROCESSOR: usize = 4;
/// Fewest channels of a segment, of which some are skipped: with fewer, groups would wait for a single load.
const SEGMENT: usize = 128;
/// Bytes of a number in shared memory.
const BYTES: usize = 4;

/// The channels of the row that a launch takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Taken {
    /// Those that matter.
    Active,
    /// The others.
    Skipped,
    /// All of them.
    All,
}

/// How the products of a row with weights by input channels are shared among units.
///
/// A cube has neighbouring outputs and a segment of the channels. It lists in shared memory which of its channels
/// are taken, as many vectors of the row at a time as it has units. Groups of `lanes` units go through the list in
/// turns: the units of a group read neighbouring weights of a channel, one piece of memory, and keep the sums of
/// their own outputs. Skipped channels are not in the list, so that nothing is read of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct ChannelShape {
    pub plane: usize,
    pub units: usize,
    /// Units of a group.
    pub lanes: usize,
    /// Channels of a vector of the row.
    pub width: usize,
    /// Elements of a load of weights.
    pub load: usize,
    /// Outputs of a load.
    pub per_load: usize,
    /// Loads that a unit has in flight.
    pub in_flight: usize,
    /// Whether the row is normed first.
    pub normed: bool,
    /// Parts that the row is the sum of.
    pub parts: usize,
    pub taken: Taken,
}

/// What a launch multiplies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Vectors of the row, and channels of each.
    pub vectors: usize,
    pub width: usize,
    pub outputs: usize,
    /// Elements of a load of weights, and outputs of one.
    pub load: usize,
    pub per_load: usize,
}

/// Cubes of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    /// Along the outputs.
    pub stripes: usize,
    /// Along the channels.
    pub segments: usize,
}

impl ChannelShape {
    pub(super) fn new(
        hardware: &HardwareProperties,
        multiprocessors: usize,
        sizes: Sizes,
        taken: Taken,
    ) -> (Self, Grid) {
        let limits = Limits {
            plane: hardware.plane_size_min as usize,
            units: hardware.max_units_per_cube as usize,
            shared_memory: hardware.max_shared_memory_size,
            cubes: CUBES_PER_MULTIPROCESSOR * multiprocessors,
        };
        Self::within(limits, sizes, taken)
    }

    fn within(limits: Limits, sizes: Sizes, taken: Taken) -> (Self, Grid) {
        let Sizes {
            vectors,
            width,
            outputs,
            load,
            per_load,
        } = sizes;
        let plane = limits.plane;
        let loads = outputs / per_load;
        let mut units = plane << (UNITS.min(limits.units).max(plane) / plane).ilog2();
        let shape = |units: usize| {
            let lanes = LANES.min(loads.next_power_of_two());
            Self {
                plane,
                units,
                lanes: lanes.max(units / GROUPS).min(units),
                width,
                load,
                per_load,
                in_flight: IN_FLIGHT,
                normed: false,
                parts: 1,
                taken,
            }
        };
        while units > plane && shape(units).bytes() > limits.shared_memory {
            units /= 2;
        }
        let shape = shape(units);
        let stripes = loads.div_ceil(shape.lanes);
        let most = (vectors * width / SEGMENT).clamp(1, vectors);
        let segments = (limits.cubes / stripes).clamp(1, most);
        (shape, Grid { stripes, segments })
    }

    pub(super) fn groups(&self) -> usize {
        self.units / self.lanes
    }

    /// Shared memory of a cube.
    fn bytes(&self) -> usize {
        let list = 2 * self.units * self.width;
        let planes = self.units / self.plane;
        (list + self.units * self.per_load + 2 * planes + 1) * BYTES
    }
}

/// What a device has.
#[derive(Clone, Copy, Debug)]
struct Limits {
    plane: usize,
    /// Most units of a cube.
    units: usize,
    /// Bytes of it.
    shared_memory: usize,
    /// Cubes that fill it.
    cubes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Limits = Limits {
        plane: 32,
        units: 1024,
        shared_memory: 227 << 10,
        cubes: 4 * 132,
    };
    const WEB_GPU: Limits = Limits {
        plane: 4,
        units: 256,
        shared_memory: 16 << 10,
        cubes: 4 * 128,
    };

    fn sizes(d_input: usize, outputs: usize, load: usize, per_load: usize) -> Sizes {
        let width = 4.min(1 << d_input.trailing_zeros());
        Sizes {
            vectors: d_input / width,
            width,
            outputs,
            load,
            per_load,
        }
    }

    #[test]
    fn every_output_has_a_cube_and_every_cube_fits() {
        for limits in [H200, WEB_GPU] {
            for (load, per_load) in [(1, 1), (4, 4), (8, 8), (4, 16)] {
                for outputs in [1, 2, 5, 40, 1000, 28_672].map(|n| n * per_load) {
                    for d_input in [1, 7, 130, 4096, 14_336] {
                        let sizes = sizes(d_input, outputs, load, per_load);
                        let (shape, grid) = ChannelShape::within(limits, sizes, Taken::Active);
                        let what = format!("{limits:?}, {sizes:?}, {shape:?}, {grid:?}");
                        assert!(shape.bytes() <= limits.shared_memory, "{what}");
                        assert!(shape.units <= limits.units, "{what}");
                        assert_eq!(shape.groups() * shape.lanes, shape.units, "{what}");
                        assert!(shape.groups() <= GROUPS, "{what}");
                        assert!(grid.stripes * shape.lanes * per_load >= outputs, "{what}");
                        assert!((1..=sizes.vectors).contains(&grid.segments), "{what}");
                    }
                }
            }
        }
    }

    #[test]
    fn few_outputs_are_shared_by_cubes_with_a_segment_of_the_channels_each() {
        let grid = |d_input, outputs| {
            let sizes = sizes(d_input, outputs, 8, 8);
            let (_, grid) = ChannelShape::within(H200, sizes, Taken::Active);
            [grid.stripes, grid.segments]
        };
        // The projections of Llama-3-8B in f16.
        assert_eq!(grid(4096, 6144), [24, 22]);
        assert_eq!(grid(4096, 4096), [16, 32]);
        assert_eq!(grid(4096, 28_672), [112, 4]);
        assert_eq!(grid(14_336, 4096), [16, 33]);
        // Too few channels to share.
        assert_eq!(grid(96, 64), [1, 1]);
    }
}
