"""What a row costs: the gate holds a few numbers of each, whatever is known of it."""

import pytest

from benchmarks.memory import measured

FEW, MANY = 50_000, 500_000
# Bytes of a row; what is allocated and not yet given back varies by half as much between two runs. With
# all lines of the feature table in memory it was 5,000.
A_ROW = 500


@pytest.mark.proof  # two runs of the gate, minutes
@pytest.mark.timeout(3000)
def test_ten_times_the_rows_take_the_gate_hardly_more_memory(tmp_path):
    peaks = []
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        folder.mkdir()
        peaks.append(measured("gate", count, 100, str(folder)).peak)
    grown = peaks[1] - peaks[0]
    assert grown < A_ROW * (MANY - FEW), [f"{peak / 2**30:.2f} GiB" for peak in peaks]
