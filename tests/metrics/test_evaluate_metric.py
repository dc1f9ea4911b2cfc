import json
import pickle
import subprocess
import sys
import threading

import pytest

from bahdanau_hf.errors import InputError
from bahdanau_hf.metrics.translation import score_translations

PREDICTIONS = ["我们走吧。", "他 昨天没有去学校。", "Tom 喜欢看 NBA 比赛", "你好！"]
REFERENCES = ["我们走吧！", "他昨天没去上学。", "汤姆喜欢看NBA比赛。", "你好。"]
SECOND_REFERENCES = ["咱们走吧。", "昨天他没有去学校。", "Tom喜欢看NBA比赛。", "您好！"]


@pytest.fixture
def metric_class():
    from bahdanau_hf.metrics.evaluate_metric import TranslationMetric

    return TranslationMetric


class TestTranslationMetric:
    expected = score_translations(PREDICTIONS, REFERENCES).as_dict()

    def test_compute_equals_score_translations(self, metric_class, tmp_path):
        metric = metric_class(cache_dir=str(tmp_path))
        computed = metric.compute(predictions=iter(PREDICTIONS), references=iter(REFERENCES))
        assert computed == self.expected
        english = metric.compute(
            predictions=PREDICTIONS, references=REFERENCES, target_lang="en", lowercase=True
        )
        expected = score_translations(PREDICTIONS, REFERENCES, target_lang="en", lowercase=True)
        assert english == expected.as_dict()

    def test_in_parts_and_with_several_references(self, metric_class, tmp_path):
        metric = metric_class(target_lang="en", cache_dir=str(tmp_path))
        references = [REFERENCES[0], *zip(REFERENCES[1:], SECOND_REFERENCES[1:], strict=True)]
        metric.add(prediction=PREDICTIONS[0], reference=references[0])
        metric.add_batch(predictions=[], references=[])
        metric.add_batch(predictions=iter(PREDICTIONS[1:]), references=iter(references[1:]))
        assert len(metric) == 4
        expected = score_translations(PREDICTIONS, references, target_lang="en")
        assert metric.compute() == expected.as_dict()

    def test_in_memory(self, metric_class):
        metric = metric_class(keep_in_memory=True)
        assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == self.expected

    @pytest.mark.parametrize("in_memory", [False, True])
    def test_empty_is_an_error_and_the_metric_lives_on(self, metric_class, tmp_path, in_memory):
        options = {"keep_in_memory": True} if in_memory else {"cache_dir": str(tmp_path)}
        metric = metric_class(**options)
        for _ in range(2):
            with pytest.raises(InputError, match="nothing to score"):
                metric.compute()
        assert not list(tmp_path.rglob("*.arrow"))
        assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == self.expected

    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({"predictions": ["a", "b"], "references": ["a"]}, "2 predictions but 1 references"),
            ({"predictions": ["a"], "references": [3]}, "reference 0 is neither"),
            ({"predictions": ["a"]}, "give predictions and references"),
        ],
    )
    def test_wrong_input(self, metric_class, tmp_path, inputs, message):
        with pytest.raises(InputError, match=message):
            metric_class(cache_dir=str(tmp_path)).compute(**inputs)

    def test_combine(self, metric_class, tmp_path):
        import evaluate

        folders = [str(tmp_path / name) for name in ("zh", "en")]
        both = evaluate.combine(
            {
                "zh": metric_class(cache_dir=folders[0]),
                "en": metric_class(target_lang="en", cache_dir=folders[1]),
            },
            force_prefix=True,
        )
        both.add(prediction=PREDICTIONS[0], reference=REFERENCES[0])
        both.add_batch(predictions=PREDICTIONS[1:], references=REFERENCES[1:])
        computed = both.compute()
        assert computed["zh_bleu"] == self.expected["bleu"]
        english = score_translations(PREDICTIONS, REFERENCES, target_lang="en")
        assert computed["en_bleu"] == english.bleu
        assert "|tok:13a|" in computed["en_bleu_signature"]

    def test_save(self, metric_class, tmp_path):
        import evaluate

        metric = metric_class(cache_dir=str(tmp_path / "cache"))
        computed = metric.compute(predictions=PREDICTIONS, references=REFERENCES)
        path = evaluate.save(tmp_path / "scores.json", model="tea", **computed)
        saved = json.loads(path.read_text(encoding="utf-8"))
        assert {name: saved[name] for name in self.expected} == self.expected
        assert saved["model"] == "tea"

    def test_pickles(self, metric_class, tmp_path):
        metric = metric_class(target_lang="de", cache_dir=str(tmp_path))
        assert pickle.loads(pickle.dumps(metric)).target_lang == "de"

    def test_gathers_over_processes_one_of_them_empty(self, metric_class, tmp_path):
        # Threads stand for processes: the file locks that evaluate gathers by hold between them.
        computed = {}

        def work(rank):
            metric = metric_class(
                num_process=3,
                process_id=rank,
                experiment_id="t",
                cache_dir=str(tmp_path),
                timeout=30,
            )
            if rank < 2:
                for i in range(rank, 4, 2):
                    metric.add_batch(
                        predictions=PREDICTIONS[i : i + 1], references=REFERENCES[i : i + 1]
                    )
            computed[rank] = metric.compute()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert computed == {0: self.expected, 1: None, 2: None}

    @pytest.mark.slow
    def test_gathers_over_real_processes(self, tmp_path):
        code = (
            "import sys, json; from bahdanau_hf.metrics.evaluate_metric import TranslationMetric\n"
            "rank = int(sys.argv[1])\n"
            "m = TranslationMetric(num_process=2, process_id=rank, experiment_id='p',"
            " cache_dir=sys.argv[2])\n"
            "p, r = json.loads(sys.argv[3])\n"
            "m.add_batch(predictions=p[rank::2], references=r[rank::2])\n"
            "print(json.dumps(m.compute()))"
        )
        sentences = json.dumps([PREDICTIONS, REFERENCES])
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(rank), str(tmp_path), sentences],
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        answers = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
        assert answers == [self.expected, None]
