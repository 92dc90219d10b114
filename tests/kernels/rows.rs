//! rows.cu: copies, exact.

use crate::harness::{Cpu, Device, Documents, Noise, Run, Traffic, assert_bits, assert_traffic, in_sectors, on_gpu};
use irori::backend::{
    Rows,
    ops::{Embed, GatherRows, ScatterRows},
};

/// Rows looked up, gathered, and x after scattering.
fn run<D: Device>(d: &mut D, width: usize, x: &[f32], src: &[f32], index: &[u32]) -> Run<3> {
    let (table, x, src) = (d.bf16(x), d.act(x), d.act(src));
    let rows = d.rows(&Documents::new(&[index.len()]));
    let index = d.u32(index);
    let [embedded, out] = [(); 2].map(|()| d.act_out(src.len()));
    let mut costs = d.run(Embed { table, rows: Rows { tokens: index, ..rows }, out: embedded });
    costs.extend(d.run(GatherRows { x, index, width, out }));
    costs.extend(d.run(ScatterRows { src, index, width, x }));
    Run { results: [d.get(embedded), d.get(out), d.get(x)], costs }
}

#[test]
fn embed_gather_and_scatter() {
    for (count, of, width) in [(1, 1, 4096), (17, 40, 8), (128, 128, 264), (300, 999, 64), (1000, 1000, 1024)] {
        let mut noise = Noise::new(count as u64);
        let (x, src) = (noise.normal(of * width, 1.0), noise.normal(count * width, 1.0));
        // Without duplicates: 7 is prime to every `of` above.
        let index: Vec<u32> = (0..count).map(|i| (i * 7 % of) as u32).collect();
        let Some(got) = on_gpu(|gpu| run(gpu, width, &x, &src, &index)) else { return };
        let want = run(&mut Cpu::new(), width, &x, &src, &index);
        for (i, what) in ["embedded", "gathered", "scattered"].into_iter().enumerate() {
            assert_bits(what, &got.results[i], &want.results[i]);
            // The index: one sector for each warp of the row's block.
            let bytes = in_sectors(count, width);
            assert_traffic(what, &got.costs[i], Traffic { loads: bytes + count * 4 * 32, stores: bytes });
        }
    }
}
