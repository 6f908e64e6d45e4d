import time
def test_a(run, recipe_data, plain_data, capfd):
    t=time.time(); f=run(recipe_data); print(time.time()-t)
    print(f.log); print(sorted(p.name for p in f.folder.iterdir())); print([m.label for m in f.record.milestones])
    for b,a in ((8,1),(1,8)):
        plain_data["out"]=recipe_data["out"]+str(a)
        plain_data["training"] = {**plain_data["training"], "micro_batch_size": b, "gradient_accumulation": a}
        t=time.time(); f=run(plain_data); print(time.time()-t)
    assert 0
