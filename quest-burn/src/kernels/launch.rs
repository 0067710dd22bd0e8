//! What every launch needs.

use burn_cubecl::CubeBackend;
pub(super) use quest_burn_linear::kernels::launch::{
    address_type, assert_in_place, empty, multiprocessors,
};

use quest_burn_linear::kernels::launch;

use super::operands::{Pool, Rows};
use crate::cache::{Int8Digests, Int8Rows, KvPool, KvRows};

/// Refuses a pool of a cache that cannot be written in place.
pub(super) fn assert_pool_in_place(operation: &str, pool: &Pool<CubeBackend>) {
    assert_rows_in_place(operation, "keys of the KV cache", &pool.keys);
    assert_rows_in_place(operation, "values of the KV cache", &pool.values);
    assert_in_place(operation, "page digests", pool.digests.rows());
}

fn assert_rows_in_place(operation: &str, what: &str, rows: &Rows<CubeBackend>) {
    assert_in_place(operation, what, rows.stored());
    if let Rows::Int8 { scales, .. } = rows {
        assert_in_place(operation, what, scales);
    }
}

/// The same for a pool that is still in its place, so that a refusal leaves it there.
pub(crate) fn check_held_alone(operation: &str, pool: &KvPool) {
    check_rows_held_alone(operation, "keys of the KV cache", &pool.keys);
    check_rows_held_alone(operation, "values of the KV cache", &pool.values);
    launch::check_held_alone(operation, "page digests", &pool.digests.rows);
    if let Some(Int8Digests { words, scales }) = &pool.digests.int8 {
        launch::check_held_alone(operation, "words of int8 digests", words);
        launch::check_held_alone(operation, "scales of int8 digests", scales);
    }
}

fn check_rows_held_alone(operation: &str, what: &str, rows: &KvRows) {
    match rows {
        KvRows::Full(rows) => launch::check_held_alone(operation, what, rows),
        KvRows::Int8(Int8Rows { words, scales }) => {
            launch::check_held_alone(operation, what, words);
            launch::check_held_alone(operation, what, scales);
        }
    }
}

/// Runs a piece of code with the type of a form of rows.
macro_rules! with_rows {
    ($storage:expr, $load:ident => $body:expr) => {
        match $storage {
            $crate::cache::KvStorage::Full => {
                type $load = $crate::row_load::Full;
                $body
            }
            $crate::cache::KvStorage::Int8 => {
                type $load = $crate::row_load::Int8;
                $body
            }
        }
    };
}
pub(super) use with_rows;
