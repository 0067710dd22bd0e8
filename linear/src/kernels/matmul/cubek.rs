//! Cubek's kernels, chosen by shapes and dtype.

use burn::backend::ops::FloatTensorOps;
use burn::{backend::cubecl::dtype_to_storage_type, tensor::DType};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};
use cubek::{
    matmul::{
        definition::{MatmulElems, MatmulGlobalElems},
        launch::launch_ref,
        multi_level::{
            Strategy,
            components::tile::TileMatmulKind,
            routines::{
                TileSizeSelection,
                batch::{
                    double_buffering::DoubleBufferingArgs, double_unit::DoubleUnitSelectionArgs,
                    simple::SimpleArgs,
                },
            },
        },
        routine::BlueprintStrategy,
    },
    std::InputBinding,
};

/// Outputs per row from which tiles of several rows fill an H100: 16 row tiles of a chunk of 2048, each
/// with as many columns of tiles.
const WIDE: usize = 8192;

/// Writes the product of `rows [n, d_input]` with the transpose of `weight [d_output, d_input]`.
pub(super) fn launch(rows: CubeTensor, weight: CubeTensor, output: &CubeTensor) {
    let (dtype, d_output) = (rows.dtype, weight.meta.shape()[0]);
    let columns = CubeBackend::float_swap_dims(weight, 0, 1);
    let strategies = strategies(dtype, d_output);
    let last = strategies.len() - 1;
    for (i, strategy) in strategies.into_iter().enumerate() {
        let storage = dtype_to_storage_type(dtype);
        let mut elements = MatmulElems::from_globals(&MatmulGlobalElems {
            lhs: storage,
            rhs: storage,
            out: storage,
        });
        let launched = launch_ref(
            &strategy.into(),
            &output.client,
            InputBinding::new(rows.clone().binding(), storage),
            InputBinding::new(columns.clone().binding(), storage),
            output.clone().binding(),
            &mut elements,
        );
        match launched {
            Ok(()) => break,
            Err(error) if i == last => panic!("matrix product: {error:?}"),
            // The device lacks what the kernel needs; the next one needs less.
            Err(_) => {}
        }
    }
}

/// The kernels to try, the fastest first; the last one runs everywhere.
///
/// On an H100, f16, 2048 rows of 4096 channels: 12288 outputs take 1.18 ms by the simple kernel with
/// several rows of tiles and 2.45 ms with two buffers; 4096 outputs 0.63 and 0.40 ms. In f32 matrix
/// instructions would round to TF32, so units multiply.
fn strategies(dtype: DType, d_output: usize) -> Vec<Strategy> {
    let simple = Strategy::SimpleCyclicCmma(BlueprintStrategy::Inferred(SimpleArgs {
        multi_rows: true,
        tile_matmul: TileMatmulKind::Cmma,
    }));
    let double = Strategy::DoubleCyclicCmma(BlueprintStrategy::Inferred(DoubleBufferingArgs {
        specialized: false,
        tile_matmul: TileMatmulKind::Cmma,
    }));
    let units = Strategy::DoubleUnit(BlueprintStrategy::Inferred(DoubleUnitSelectionArgs {
        tile_size: TileSizeSelection::MaxTileSize,
    }));
    match dtype {
        DType::F32 => vec![units, Strategy::Naive],
        _ if d_output >= WIDE => vec![simple, double, units, Strategy::Naive],
        _ => vec![double, simple, units, Strategy::Naive],
    }
}
